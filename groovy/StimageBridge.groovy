/**
 * What all STimage scripts share: it hands annotations to the Python package and takes nuclei back.
 *
 * QuPath 0.4 to 0.7, with and without a window. Not a script to run: the scripts beside it load it.
 * Nothing but files crosses the border: request.json and regions-<id>.geojson go out, response.json and a run folder
 * for each image come back. Annotations are never changed; of the detections only those are replaced that this
 * package made itself (they carry the measurement "STimage: object version").
 */

import com.google.gson.GsonBuilder
import com.google.gson.JsonArray
import com.google.gson.JsonObject
import com.google.gson.JsonParser
import com.google.gson.JsonPrimitive
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import java.nio.file.Files
import java.nio.file.StandardOpenOption
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.UUID
import java.util.concurrent.TimeUnit
import org.slf4j.LoggerFactory
import qupath.lib.common.GeneralTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.images.ImageData
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObject
import qupath.lib.roi.interfaces.ROI
import qupath.lib.scripting.QP

class StimageBridge {

    static final int API = 1
    static final int MANY_OBJECTS = 200000
    static final String OWN = "STimage: object version"
    static final String RESEARCH_USE = "STimage: research use"
    static final String RUN_FOLDER = "STimage: run folder"
    static final Map DEFAULTS = [model: "starter", genes: "", unit: "cells", stride_um: "", measurements: "short",
                                 device: "auto", batch_size: "", seed: "0", classes: "", replace: "own", runs: "",
                                 status: "", to: "", gene: ""]

    final def log = LoggerFactory.getLogger("STimage")
    final def gson = new GsonBuilder().serializeNulls().disableHtmlEscaping().setPrettyPrinting().create()
    final File home
    final Map options = [:] + DEFAULTS
    final ImageData imageData
    final def project
    final def entry
    private Class windowClass

    /**
     * home: folder of the scripts; values: the settings at the top of a script; args: key=value words that win over them.
     * The image and the project are looked up here, on the thread of the script, as QuPath keeps them by thread.
     */
    StimageBridge(File home, Map values, args) {
        this.home = home
        def given = (args ?: []).collectEntries { word ->
            def at = word.toString().indexOf("=")
            if (at < 1)
                throw new IllegalArgumentException("expected arguments like genes=ERBB2,EPCAM, found '" + word + "'")
            [word.toString().substring(0, at), word.toString().substring(at + 1)]
        }
        def known = DEFAULTS.keySet()
        def unknown = (values.keySet() + given.keySet()).findAll { !known.contains(it) }
        if (unknown)
            throw new IllegalArgumentException("expected settings out of " + known.join(", ") + ", found " + unknown.join(", "))
        options.putAll(values)
        options.putAll(given)
        imageData = gui() == null ? QP.getCurrentImageData() : (QP.getCurrentImageData() ?: gui().getImageData())
        project = QP.getProject() ?: gui()?.getProject()
        entry = project == null || imageData == null ? null : project.getEntry(imageData)
    }

    static def gui() { QuPathGUI.getInstance() }

    /** Runs the work of a script off the JavaFX thread, writes its line to the status file, and shows what failed. */
    void perform(String script, Closure work) {
        def whole = {
            def about = [script: script, image: entry?.getImageName(), status: "done", message: "", qupath: GeneralTools.getVersion().toString()]
            try {
                about.putAll(work.call())
            } catch (InterruptedException e) {
                about.putAll([status: "cancelled", message: e.getMessage() ?: "cancelled; nothing was changed"])
                log.warn("{}: {}", script, about.message)
            } catch (Throwable e) {
                about.putAll([status: "failed", message: e.getMessage() ?: e.toString()])
                log.error(script + ": " + about.message, e)
                throw e
            } finally {
                writeStatus(about)
                if (gui() != null && !about.quiet)
                    window().say("STimage: " + script, about.message.toString(), about.status == "failed")
            }
            if (about.status == "done")
                log.info("{}: {}", script, about.message)
        }
        if (gui() != null && window().isFxThread())
            new Thread({ try { whole() } catch (Throwable e) { log.debug("shown already", e) } } as Runnable, "STimage").start()
        else
            whole()
    }

    /** Starts the Python package and has it load its model: the whole way there and back, without an image. */
    Map checkSetup() {
        def job = newJob()
        def events = run(job, ["--check"], "Checking the setup")
        def done = response(job)
        return [message: "the package " + done.versions["stimage-qupath"] + " answers; its log is in " + job,
                versions: done.versions, events: events]
    }

    /** Predicts the selected annotations of the image that is open; without a selection all of them. */
    Map predictOpenImage() {
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one and draw an annotation")
        def areas = areasOf(imageData, true)
        if (areas.isEmpty())
            throw new IllegalStateException("expected an annotation with an area, found none; draw or select one")
        return predict([[id: entry?.getID() ?: "image", data: imageData, areas: areas]])
    }

    /** Predicts all annotations of all images of the project with one Python process, and saves those not open. */
    Map predictProject() {
        if (project == null)
            throw new IllegalStateException("expected a project, found none; open one")
        def targets = []
        for (one in project.getImageList()) {
            def open = one == entry
            def data = open ? imageData : one.readImageData()
            def areas = areasOf(data, false)
            if (areas.isEmpty())
                log.info("{}: no annotation, left out", one.getImageName())
            else
                targets << [id: one.getID(), data: data, areas: areas, save: open ? null : one]
        }
        if (targets.isEmpty())
            throw new IllegalStateException("expected annotations in the project, found none; draw some and save")
        return predict(targets)
    }

    /** Each target: id, data (ImageData), areas (annotations), save (the entry to save to, or null). */
    private Map predict(List targets) {
        def job = newJob()
        def images = targets.collect { describe(job, it) }
        write(new File(job, "request.json"), gson.toJson(request(job, images)))
        run(job, ["--request", "request.json"], "Predicting")
        def answer = new File(job, "response.json").isFile() ? read(new File(job, "response.json")) : null
        def found = answer == null ? [] : answer.images.findAll { it.status == "done" }
        if (Thread.interrupted())
            throw new InterruptedException("cancelled; nothing was changed")
        def totals = [added: 0, removed: 0, run: job.getPath(), images: []]
        for (image in found) {
            def target = targets.find { it.id == image.id }
            def counts = attach(target.data, image)
            if (target.save != null)
                target.save.saveImageData(target.data)
            totals.added += counts.added
            totals.removed += counts.removed
            totals.images << [id: image.id, name: image.name] + counts
            image.warnings.each { log.warn("{}: {}", image.name, it) }
        }
        response(job)
        def note = found.collect { it.research_use }.find { it }
        return totals + [message: totals.added + " nuclei in " + found.size() + " image(s), " + totals.removed
                                  + " earlier ones replaced. " + note]
    }

    // ---- out: the request ----

    private List areasOf(ImageData data, boolean selection) {
        def hierarchy = data.getHierarchy()
        def isArea = { it.isAnnotation() && it.hasROI() && it.getROI().isArea() && !it.getROI().isEmpty() }
        def areas = selection ? hierarchy.getSelectionModel().getSelectedObjects().findAll(isArea) : []
        areas = areas ?: hierarchy.getAnnotationObjects().findAll(isArea)
        def classes = words(options.classes)
        return classes ? areas.findAll { classes.contains(it.getPathClass()?.toString()) } : areas as List
    }

    private Map describe(File job, Map target) {
        def server = target.data.getServer()
        def uris = server.getURIs()
        if (uris.size() != 1)
            throw new IllegalStateException("expected an image of one file, found " + uris.size() + "; save it as one file")
        def planes = target.areas.collect { [it.getROI().getZ(), it.getROI().getT()] }.unique()
        if (planes.size() != 1)
            throw new IllegalStateException("expected annotations of one plane, found " + planes + "; select those of one")
        def cal = server.getPixelCalibration()
        def regions = new File(job, "regions-" + target.id + ".geojson")
        write(regions, geojson(target.areas))
        def name = project?.getEntry(target.data)?.getImageName() ?: server.getMetadata().getName()
        return [id: target.id, name: name, uri: uris[0].toString(), server: server.getClass().getName(),
                series: series(server), width: server.getWidth(), height: server.getHeight(),
                pixel_um: cal.hasPixelSizeMicrons() ? [cal.getPixelWidthMicrons(), cal.getPixelHeightMicrons()]*.doubleValue() : null,
                bounds: bounds(server), rotation: rotation(server), z: planes[0][0], t: planes[0][1], regions: regions.getPath()]
    }

    private Map request(File job, List images) {
        return [api: API, run_id: job.getName(), output: job.getPath(), model: [id: options.model, sha256: null],
                genes: words(options.genes), explain: [], unit: options.unit,
                stride_um: options.stride_um ? options.stride_um.toString().toDouble() : null, segmenter: "classical",
                nuclei: null, cell_expansion_um: 0, measurements: options.measurements, device: options.device,
                batch_size: options.batch_size ? options.batch_size.toString().toInteger() : null,
                seed: options.seed ? options.seed.toString().toInteger() : null, replace: options.replace, images: images]
    }

    /** Written here and not by PathIO, which writes colours with the digits of the user's language. */
    private String geojson(Collection annotations) {
        def features = new JsonArray()
        for (annotation in annotations) {
            def properties = new JsonObject()
            properties.addProperty("objectType", "annotation")
            if (annotation.getName() != null)
                properties.addProperty("name", annotation.getName())
            def pathClass = annotation.getPathClass()
            if (pathClass != null && pathClass.toString()) {
                int rgb = pathClass.getColor() ?: 0
                def color = new JsonArray()
                [rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255].each { color.add(new JsonPrimitive(it)) }
                def classification = new JsonObject()
                classification.addProperty("name", pathClass.toString())
                classification.add("color", color)
                properties.add("classification", classification)
            }
            def feature = new JsonObject()
            feature.addProperty("type", "Feature")
            feature.addProperty("id", annotation.getID().toString())
            feature.add("geometry", JsonParser.parseString(GsonTools.getInstance().toJson(annotation.getROI(), ROI.class)))
            feature.add("properties", properties)
            features.add(feature)
        }
        def collection = new JsonObject()
        collection.addProperty("type", "FeatureCollection")
        collection.add("features", features)
        return gson.toJson(collection)
    }

    private static int series(server) {
        def matcher = server.getPath() =~ /--series[,\s]+(\d+)/
        return matcher.find() ? matcher.group(1).toInteger() : 0
    }

    private static int rotation(server) {
        if (server.getClass().getSimpleName() != "RotatedImageServer")
            return 0
        def name = server.getRotation().toString()
        return name.endsWith("NONE") ? 0 : (name =~ /(\d+)/)[0][1].toInteger()
    }

    /** The part of the file that OpenSlide shows, which the server keeps to itself. */
    private static List bounds(server) {
        if (server.getClass().getSimpleName() != "OpenslideImageServer")
            return null
        try {
            def values = ["boundsX", "boundsY", "boundsWidth", "boundsHeight"].collect {
                def field = server.getClass().getDeclaredField(it)
                field.setAccessible(true)
                field.get(server) as Integer
            }
            return values
        } catch (ReflectiveOperationException | RuntimeException e) {
            return null
        }
    }

    // ---- the process ----

    /** Runs the worker in the job folder and returns its lines; a cancel is an InterruptedException. */
    private List run(File job, List words, String title) {
        def events = Collections.synchronizedList([])
        def window = gui() == null ? null : window().open(title)
        def process = null
        try {
            process = start(job, words)
            def reader = new Thread({ listen(process, events, window) } as Runnable, "STimage output")
            reader.setDaemon(true)
            reader.start()
            while (!process.waitFor(200, TimeUnit.MILLISECONDS))
                if (window?.cancelled)
                    throw new InterruptedException("cancelled; nothing was changed")
            reader.join(5000)
            return events.findAll { it.event == "started" }
        } catch (InterruptedException e) {
            if (process != null)
                cancel(job, process)
            throw new InterruptedException("cancelled; nothing was changed")
        } finally {
            window?.close()
        }
    }

    private Process start(File job, List words) {
        def command = [interpreter(), "-u", "-X", "utf8", "-m", "stimage_qupath", "worker"] + words
        def builder = new ProcessBuilder(command*.toString())
        builder.directory(job)
        builder.redirectError(new File(job, "worker.log"))
        def env = builder.environment()
        ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP"].each { env.remove(it) }
        env.put("PYTHONNOUSERSITE", "1")
        env.put("STIMAGE_PARENT_PID", String.valueOf(ProcessHandle.current().pid()))
        def process = builder.start()
        process.getOutputStream().close()
        return process
    }

    private void listen(Process process, List events, window) {
        long said = 0
        process.getInputStream().eachLine("UTF-8") { line ->
            if (!line.startsWith("@@STIMAGE "))
                return
            def event = gson.fromJson(line.substring(10), Map)
            if (event.event != "progress")
                events << event
            window?.show(event)
            long now = System.currentTimeMillis()
            if (event.event == "progress" && now - said > 5000) {
                said = now
                log.info("{} {}", event.stage, event.total ? String.format(Locale.US, "%.0f of %.0f", event.done, event.total) : "")
            }
        }
    }

    /** Ask, wait two seconds, then end what the worker started and the worker itself. */
    private void cancel(File job, Process process) {
        new File(job, "cancel").createNewFile()
        if (!process.waitFor(2, TimeUnit.SECONDS)) {
            process.descendants().forEach { it.destroyForcibly() }
            process.destroy()
            if (!process.waitFor(500, TimeUnit.MILLISECONDS))
                process.destroyForcibly()
        }
    }

    /** Returns what the worker answered, if it is done; else an exception with its words and the end of its log. */
    private Map response(File job) {
        def file = new File(job, "response.json")
        if (!file.isFile())
            throw new IllegalStateException("expected an answer, found none: the Python process was killed or could not start\n" + tail(job))
        def answer = read(file)
        if (answer.status == "cancelled")
            throw new InterruptedException(answer.error.message)
        if (answer.status == "failed")
            throw new IllegalStateException(answer.error.message + "\n" + answer.error.hint + "\n" + tail(job))
        return answer
    }

    private static String tail(File job) {
        def log = new File(job, "worker.log")
        def lines = log.isFile() ? log.readLines("UTF-8") : []
        return "Log: " + log + "\n" + lines.drop(Math.max(0, lines.size() - 15)).join("\n")
    }

    private String interpreter() {
        def file = new File(home, "stimage-settings.json")
        if (!file.isFile())
            throw new IllegalStateException("expected " + file + ", found none; run: stimage-qupath install-scripts")
        def path = read(file).interpreter
        if (!new File(path).isFile())
            throw new IllegalStateException("expected Python at " + path + ", found none; run again: stimage-qupath install-scripts")
        return path
    }

    // ---- back: the nuclei ----

    /** Reads and checks everything first; then replaces our earlier objects of the same parents, with one event. */
    private Map attach(ImageData data, Map image) {
        def cells = image.cells as int
        if (cells > MANY_OBJECTS)
            log.warn("{}: {} nuclei; above {} QuPath becomes slow: predict smaller annotations", image.name, cells, MANY_OBJECTS)
        def objects = PathIO.readObjects(new File(image.folder.toString(), "cells.geojson.gz"))
        checkOrder(objects, image)
        def hierarchy = data.getHierarchy()
        def root = hierarchy.getRootObject()
        def byId = hierarchy.getAnnotationObjects().collectEntries { [it.getID().toString(), it] }
        def parents = image.regions.collect { byId[it.id] ?: root }
        def removed = 0
        if (options.replace == "own")
            for (parent in parents.unique(false)) {
                def mine = parent.getChildObjects().findAll { isOwn(it) }
                hierarchy.getSelectionModel().deselectObjects(mine)
                parent.removeChildObjects(mine)
                removed += mine.size()
            }
        image.regions.eachWithIndex { region, i ->
            int first = region.first
            parents[i].addChildObjects(objects.subList(first, first + (region.count as int)))
        }
        data.setProperty(RESEARCH_USE, image.research_use ?: "")
        data.setProperty(RUN_FOLDER, image.folder)
        hierarchy.fireHierarchyChangedEvent(this, root)
        return [added: objects.size(), removed: removed]
    }

    private static void checkOrder(List objects, Map image) {
        def counted = image.regions.sum { it.count as int } ?: 0
        def wrong = image.regions.find { it.count > 0 && objects.size() > it.first && objects[it.first as int].getID().toString() != it.first_id }
        if (objects.size() != (image.cells as int) || counted != objects.size() || wrong != null)
            throw new IllegalStateException("expected " + image.cells + " nuclei in the order of the run, found "
                + objects.size() + (wrong ? " and another first nucleus in region " + wrong.id : "") + "; predict again")
    }

    static boolean isOwn(PathObject object) { object.isDetection() && object.getMeasurementList().containsKey(OWN) }

    static List ownObjects(ImageData data) { data.getHierarchy().getDetectionObjects().findAll { isOwn(it) } as List }

    /** Genes that our detections of an image carry. */
    static List genesOf(ImageData data) {
        def own = ownObjects(data)
        if (own.isEmpty())
            return []
        return own[0].getMeasurementList().getMeasurementNames().findAll { it.startsWith("STimage: ") && it.endsWith(": mean") }
            .collect { it.substring(9, it.length() - 6) }
    }

    /** Colours our nuclei by options.gene, or by the gene the user picks. */
    Map showGene() {
        if (gui() == null)
            throw new IllegalStateException("expected QuPath's window, found none; Show gene only colours what is seen")
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one")
        def genes = genesOf(imageData)
        if (genes.isEmpty())
            throw new IllegalStateException("expected predicted nuclei in this image, found none; predict first")
        def gene = options.gene ?: window().askGene(genes)
        if (gene == null)
            throw new InterruptedException("no gene was chosen")
        if (!genes.contains(gene))
            throw new IllegalArgumentException("expected a gene out of " + genes.join(", ") + ", found " + gene)
        def note = imageData.getProperty(RESEARCH_USE) ?: "Research use only. Predicted from H&E context. Not a diagnostic test."
        window().color(ownObjects(imageData), "STimage: " + gene + ": mean", note.toString())
        return [message: "nuclei are coloured by " + gene + ". " + note, quiet: true]
    }

    /** Predicts with what the user answers; null settings mean that the user changed his mind. */
    void askAndPredict(boolean wholeProject) {
        def answer = window().askSettings(options)
        if (answer == null)
            return
        options.putAll(answer)
        perform(wholeProject ? "Predict for project" : "Predict selected annotations") {
            wholeProject ? predictProject() : predictOpenImage()
        }
    }

    /** Writes our nuclei, as they now are, to options.to: GeoJSON and CSV, with the tables of their run if it is still there. */
    Map exportOpenImage() {
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one")
        def own = ownObjects(imageData)
        if (own.isEmpty())
            throw new IllegalStateException("expected predicted nuclei in this image, found none; predict first")
        if (!options.to)
            throw new IllegalStateException("expected a folder to export to, found none; pass to=FOLDER")
        def name = (entry?.getImageName() ?: imageData.getServer().getMetadata().getName()).replaceAll(/[^\p{L}\p{N}._-]+/, "_")
        def folder = new File(options.to.toString(), name)
        folder.mkdirs()
        PathIO.exportObjectsAsGeoJSON(new File(folder, "nuclei.geojson"), own, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
        writeTable(new File(folder, "nuclei.csv"), own)
        def run = imageData.getProperty(RUN_FOLDER)
        ["cells.h5ad", "cells.parquet", "run.json"].each {
            def source = run == null ? null : new File(run.toString(), it)
            if (source?.isFile())
                Files.copy(source.toPath(), new File(folder, it).toPath(), java.nio.file.StandardCopyOption.REPLACE_EXISTING)
        }
        return [message: own.size() + " nuclei written to " + folder, folder: folder.getPath()]
    }

    /** Numbers as JSON and Python write them, whatever the language. */
    private static void writeTable(File file, List own) {
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

    // ---- files ----

    private File newJob() {
        def base = options.runs ? new File(options.runs.toString()) : new File(workFolder() ?: new File(System.getProperty("user.home"), "STimage"), "runs")
        def stamp = new SimpleDateFormat("yyyyMMdd-HHmmss", Locale.US).format(new Date())
        def job = new File(base, stamp + "-" + UUID.randomUUID().toString().substring(0, 8)).getAbsoluteFile()
        if (!job.mkdirs())
            throw new IllegalStateException("expected to make the folder " + job + ", found that it cannot be made; pass runs=FOLDER")
        return job
    }

    /** The folder stimage in the project, or null. */
    private File workFolder() {
        def path = project?.getPath()
        return path == null ? null : new File(path.toFile().getParentFile(), "stimage")
    }

    /** One JSON object a line, as QuPath itself ends with 0 even when a script threw. */
    private void writeStatus(Map about) {
        def file = options.status ? new File(options.status.toString()) : workFolder() == null ? null : new File(workFolder(), "status.jsonl")
        if (file == null)
            return
        file.getAbsoluteFile().getParentFile().mkdirs()
        def line = new GsonBuilder().serializeNulls().disableHtmlEscaping().create().toJson(about) + "\n"
        Files.write(file.toPath(), line.getBytes("UTF-8"), StandardOpenOption.CREATE, StandardOpenOption.APPEND)
    }

    private static List words(text) { text.toString().split(",")*.trim().findAll { it } }

    private void write(File file, String text) { file.setText(text, "UTF-8") }

    private Map read(File file) { gson.fromJson(file.getText("UTF-8"), Map) }

    /** What needs a display is in a class of its own, which is loaded only where there is one. */
    def window() {
        if (windowClass == null)
            windowClass = new GroovyClassLoader(getClass().getClassLoader())
                .parseClass(new GroovyCodeSource(new File(home, "StimageWindow.groovy"), "UTF-8"))
        return windowClass
    }
}
