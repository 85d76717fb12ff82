/**
 * What the STimage scripts ask the Python package for: request.json, and the annotations as GeoJSON beside it.
 *
 * Not a script to run: StimageBridge.groovy loads it.
 */

import com.google.gson.Gson
import com.google.gson.JsonArray
import com.google.gson.JsonObject
import com.google.gson.JsonParser
import com.google.gson.JsonPrimitive
import java.io.File
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerBuilder.ServerBuilder
import qupath.lib.io.GsonTools
import qupath.lib.roi.interfaces.ROI

class StimageRequest {

    static final int API = 1
    static final String OWN = "STimage: object version"

    final Map options
    final def project
    final Gson gson

    /** options: those of the bridge; project: QuPath's, or null; gson: writes the files. */
    StimageRequest(Map options, project, Gson gson) {
        this.options = options
        this.project = project
        this.gson = gson
    }

    /** Annotations with an area and, if the options say so, of a class; the selected ones where there are some. */
    List areasOf(ImageData data, boolean selection) {
        def hierarchy = data.getHierarchy()
        def isArea = { it.isAnnotation() && it.hasROI() && it.getROI().isArea() && !it.getROI().isEmpty() }
        def areas = selection ? hierarchy.getSelectionModel().getSelectedObjects().findAll(isArea) : []
        areas = areas ?: hierarchy.getAnnotationObjects().findAll(isArea)
        def classes = words(options.classes)
        return classes ? areas.findAll { classes.contains(it.getPathClass()?.toString()) } : areas as List
    }

    /** What request.json says of an image; writes its annotations beside it. */
    Map describe(File job, Map target) {
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
        def shown = view(server, name)
        return [id: target.id, name: name, uri: uris[0].toString(), server: server.getClass().getName(),
                series: shown.series, width: server.getWidth(), height: server.getHeight(),
                pixel_um: cal.hasPixelSizeMicrons() ? [cal.getPixelWidthMicrons(), cal.getPixelHeightMicrons()]*.doubleValue() : null,
                bounds: bounds(server), rotation: shown.rotation, crop: shown.crop, z: planes[0][0], t: planes[0][1], regions: regions.getPath()]
    }

    /** The user's own nuclei as a file, where the settings ask to take those; else null. */
    String existing(File job, List targets) {
        if (!options.nuclei)
            return null
        if (options.nuclei != "existing")
            throw new IllegalArgumentException("expected nuclei=existing or nothing, found " + options.nuclei)
        if (targets.size() != 1)
            throw new IllegalArgumentException("expected one image with nuclei=existing, found " + targets.size())
        def nuclei = targets[0].data.getHierarchy().getDetectionObjects().findAll { !it.isTile() && !it.getMeasurementList().containsKey(OWN) && it.getROI().isArea() }
        if (nuclei.isEmpty())
            throw new IllegalStateException("expected nuclei of yours in the image, found none; detect cells first")
        def file = new File(job, "nuclei-" + targets[0].id + ".geojson")
        write(file, geojson(nuclei))
        return file.getPath()
    }

    /** The whole of request.json. */
    Map body(File job, List images, String nuclei) {
        return [api: API, run_id: job.getName(), output: job.getPath(), model: [id: options.model, sha256: null],
                genes: words(options.genes), explain: words(options.explain), unit: options.unit,
                stride_um: options.stride_um ? options.stride_um.toString().toDouble() : null, segmenter: options.segmenter,
                nuclei: nuclei, cell_expansion_um: options.cell_expansion_um ? options.cell_expansion_um.toString().toDouble() : 0,
                measurements: options.measurements, device: options.device,
                batch_size: options.batch_size ? options.batch_size.toString().toInteger() : null,
                seed: options.seed ? options.seed.toString().toInteger() : null, replace: options.replace, images: images]
    }

    /** Writes objects as GeoJSON. */
    void writeObjects(File file, Collection objects) { write(file, geojson(objects)) }

    /** Written here and not by PathIO, which writes colours with the digits of the user's language. */
    private String geojson(Collection objects) {
        def features = new JsonArray()
        for (annotation in objects) {
            def properties = new JsonObject()
            properties.addProperty("objectType", annotation.isCell() ? "cell" : annotation.isDetection() ? "detection" : "annotation")
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
            if (annotation.isCell() && annotation.getNucleusROI() != null)
                feature.add("nucleusGeometry", JsonParser.parseString(GsonTools.getInstance().toJson(annotation.getNucleusROI(), ROI.class)))
            feature.add("properties", properties)
            features.add(feature)
        }
        def collection = new JsonObject()
        collection.addProperty("type", "FeatureCollection")
        collection.add("features", features)
        return gson.toJson(collection)
    }

    /**
     * Series, rotation and crop, from the way QuPath itself stores how an image is opened; the innermost is the file.
     * Anything else that changes pixels is refused: what is shown would not be what is predicted.
     */
    private static Map view(server, String name) {
        def view = [series: 0, rotation: 0, crop: null]
        def builder = JsonParser.parseString(GsonTools.getInstance().toJson(server.getBuilder(), ServerBuilder.class))
        if (!builder.isJsonObject())
            return view
        def steps = []
        while (builder.has("builder")) {
            steps << builder
            builder = builder.get("builder").getAsJsonObject()
        }
        def arguments = builder.has("args") ? builder.get("args").collect { it.getAsString() } : []
        if (arguments.contains("--series"))
            view.series = arguments[arguments.indexOf("--series") + 1].toInteger()
        for (step in steps.reverse()) {
            def kind = step.get("builderType").getAsString()
            def turn = kind == "rotated" ? step.get("rotation").getAsString() : "ROTATE_NONE"
            if (kind == "rotated" && view.crop == null && (view.rotation == 0 || turn.endsWith("NONE")))
                view.rotation = turn.endsWith("NONE") ? view.rotation : turn.substring(7).toInteger()
            else if (kind == "cropped" && view.crop == null)
                view.crop = ["x", "y", "width", "height"].collect { step.get("region").get(it).getAsInt() }
            else if (kind != "pyramidize")
                throw new IllegalStateException("expected an image as in its file, turned and then cropped, found " + name + ": " + kind + "; open the original")
        }
        if (!builder.has("uri"))
            throw new IllegalStateException("expected an image as in its file, found " + name + ": " + builder.get("builderType") + "; open the original")
        return view
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

    private static List words(text) { text.toString().split(",")*.trim().findAll { it } }

    private static void write(File file, String text) { file.setText(text, "UTF-8") }
}
