/**
 * The nuclei that the STimage scripts bring into QuPath: imported, replaced, found again, written to a table.
 *
 * Not a script to run: StimageBridge.groovy loads it.
 */

import java.io.File
import java.util.Locale
import org.slf4j.LoggerFactory
import qupath.lib.images.ImageData
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObject

class StimageNuclei {

    static final int MANY_OBJECTS = 200000
    static final String PREFIX = "STimage: "
    static final String OWN = "STimage: object version"
    static final String PREDICTED = "STimage: OOD score"
    static final String RESEARCH_USE = "STimage: research use"
    static final String RUN_FOLDER = "STimage: run folder"
    static final def log = LoggerFactory.getLogger("STimage")

    /**
     * Reads and checks everything first; then replaces our earlier objects of the same parents, with one event.
     * Nuclei that came from the user are not ours: those in the image get new values and nothing else, the others are added.
     */
    static Map attach(ImageData data, Map image, boolean replace) {
        def cells = image.cells as int
        def warnings = (image.warnings ?: []).collect { it.toString() }
        if (cells > MANY_OBJECTS)
            warnings << String.format(Locale.US, "%,d nuclei; above %,d QuPath becomes slow: predict smaller annotations", cells, MANY_OBJECTS)
        warnings.each { log.warn("{}: {}", image.name, it) }
        def objects = PathIO.readObjects(new File(image.folder.toString(), "cells.geojson.gz"))
        checkOrder(objects, image)
        if (Thread.interrupted())
            throw new InterruptedException("cancelled; nothing was changed")
        def hierarchy = data.getHierarchy()
        def root = hierarchy.getRootObject()
        def byId = hierarchy.getAnnotationObjects().collectEntries { [it.getID().toString(), it] }
        def parents = image.regions.collect { byId[it.id] ?: root }
        def users = objects.findAll { !isOwn(it) }.collect { it.getID() } as Set
        def live = users.isEmpty() ? [:] : hierarchy.getDetectionObjects().findAll { it.getID() in users }.collectEntries { [it.getID(), it] }
        def removed = 0
        if (replace)
            for (parent in parents.unique(false)) {
                def mine = parent.getChildObjects().findAll { isOwn(it) && !live.containsKey(it.getID()) }
                hierarchy.getSelectionModel().deselectObjects(mine)
                parent.removeChildObjects(mine)
                removed += mine.size()
            }
        image.regions.eachWithIndex { region, i ->
            int first = region.first
            def here = objects.subList(first, first + (region.count as int))
            here.findAll { live.containsKey(it.getID()) }.each { update(live[it.getID()], it) }
            parents[i].addChildObjects(here.findAll { !live.containsKey(it.getID()) })
        }
        data.setProperty(RESEARCH_USE, image.research_use ?: "")
        data.setProperty(RUN_FOLDER, image.folder)
        hierarchy.fireHierarchyChangedEvent(StimageNuclei.class, root)
        return [added: objects.size() - live.size(), removed: removed, updated: live.size(), warnings: warnings]
    }

    /** Replaces our measurements of an object of the user. */
    private static void update(PathObject mine, PathObject found) {
        def list = mine.getMeasurementList()
        list.removeMeasurements(list.getMeasurementNames().findAll { it.startsWith(PREFIX) } as String[])
        for (name in found.getMeasurementList().getMeasurementNames())
            if (name.startsWith(PREFIX))
                list.put(name, found.getMeasurementList().get(name))
        list.close()
    }

    private static void checkOrder(List objects, Map image) {
        def counted = image.regions.sum { it.count as int } ?: 0
        def wrong = image.regions.find { it.count > 0 && objects.size() > it.first && objects[it.first as int].getID().toString() != it.first_id }
        if (objects.size() != (image.cells as int) || counted != objects.size() || wrong != null)
            throw new IllegalStateException("expected " + (image.cells as int) + " nuclei in the order of the run, found "
                + objects.size() + (wrong ? " and another first nucleus in region " + wrong.id : "") + "; predict again")
    }

    static boolean isOwn(PathObject object) { object.isDetection() && object.getMeasurementList().containsKey(OWN) }

    static boolean isPredicted(PathObject object) { isOwn(object) || object.getMeasurementList().containsKey(PREDICTED) }

    /** Our nuclei, and those of the user that have predictions. */
    static List ownObjects(ImageData data) { data.getHierarchy().getDetectionObjects().findAll { isPredicted(it) } as List }

    /** Genes that our detections of an image carry. */
    static List genesOf(ImageData data) {
        def own = ownObjects(data)
        if (own.isEmpty())
            return []
        return own[0].getMeasurementList().getMeasurementNames().findAll { it.startsWith("STimage: ") && it.endsWith(": mean") }
            .collect { it.substring(9, it.length() - 6) }
    }

    /** Numbers as JSON and Python write them, whatever the language. */
    static void writeTable(File file, List own) {
        def columns = own[0].getMeasurementList().getMeasurementNames()
        def quoted = { '"' + it.toString().replace('"', '""') + '"' }
        file.withWriter("UTF-8") { out ->
            out.write((["cell_id", "region_id", "x_px", "y_px"] + columns).collect(quoted).join(",") + "\n")
            for (object in own) {
                def values = columns.collect { object.getMeasurementList().get(it) }
                def roi = object.getROI()
                def row = [object.getID(), object.getParent()?.getID() ?: "", roi.getCentroidX(), roi.getCentroidY()] + values
                out.write(row.join(",") + "\n")
            }
        }
    }
}
