/**
 * What all STimage scripts share: it hands annotations to the Python package and takes nuclei back.
 *
 * Requests, the Python process, the nuclei and the window each have a class of their own in a file beside this one.
 * QuPath 0.4 to 0.7, with and without a window. Not a script to run: the scripts beside it load it.
 * Nothing but files crosses the border: request.json and regions-<id>.geojson go out, response.json and a run folder
 * for each image come back. Annotations are never changed; of the detections only those are replaced that this
 * package made itself (they carry the measurement "STimage: object version").
 */

import com.google.gson.Gson
import com.google.gson.GsonBuilder
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import java.nio.file.Files
import java.nio.file.StandardOpenOption
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.UUID
import org.slf4j.LoggerFactory
import qupath.lib.common.GeneralTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.images.ImageData
import qupath.lib.io.PathIO
import qupath.lib.scripting.QP

class StimageBridge {

    static final Map DEFAULTS = [model: "starter", genes: "", unit: "cells", stride_um: "", segmenter: "classical", measurements: "short",
                                 device: "auto", batch_size: "", seed: "0", classes: "", replace: "own", runs: "",
                                 nuclei: "", cell_expansion_um: "", explain: "", status: "", to: "", from: "", gene: "",
                                 rest: "", second: ""]

    final def log = LoggerFactory.getLogger("STimage")
    final def gson = new GsonBuilder().serializeNulls().disableHtmlEscaping().setPrettyPrinting().create()
    final File home
    final Map options = [:] + DEFAULTS
    final ImageData imageData
    final def project
    final def entry
    private final Map parts = [:]

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
        def python = worker()
        def events = python.run(job, ["--check"], "Checking the setup")
        def done = python.response(job)
        return [message: "the package " + done.versions["stimage-qupath"] + " answers; its log is in " + job,
                versions: done.versions, events: events]
    }

    /** Predicts the selected annotations of the image that is open; without a selection all of them. */
    Map predictOpenImage() {
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one and draw an annotation")
        def areas = request().areasOf(imageData, true)
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
            def areas = request().areasOf(data, false)
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
        def asked = request()
        def images = targets.collect { asked.describe(job, it) }
        def body = asked.body(job, images, asked.existing(job, targets))
        new File(job, "request.json").setText(gson.toJson(body), "UTF-8")
        def python = worker()
        python.run(job, ["--request", "request.json"], "Predicting")
        def answer = new File(job, "response.json").isFile() ? read(new File(job, "response.json")) : null
        def found = answer == null ? [] : answer.images.findAll { it.status == "done" }
        if (Thread.interrupted())
            throw new InterruptedException("cancelled; nothing was changed")
        def totals = bring(found.collect { image -> targets.find { it.id == image.id } + [run: image] })
        python.response(job)
        return totals + [run: job.getPath()]
    }

    /** Puts runs into images and saves those that are not open; each target: data, run, and save, the entry or null. */
    private Map bring(List targets) {
        def totals = [added: 0, removed: 0, updated: 0, images: []]
        for (target in targets) {
            def image = target.run
            if (totals.images && Thread.interrupted())
                throw new InterruptedException("cancelled; the nuclei of " + totals.images*.name.join(", ") + " are in")
            def counts = nuclei().attach(target.data, image, options.replace == "own")
            if (target.save != null)
                target.save.saveImageData(target.data)
            ["added", "removed", "updated"].each { totals[it] += counts[it] }
            totals.images << [id: image.id, name: image.name] + counts
        }
        def note = targets.collect { it.run.research_use }.find { it } ?: ""
        def warnings = totals.images.collectMany { image -> image.warnings.collect { "\n" + image.name + ": " + it } }.join("")
        def message = (totals.added + totals.updated) + " nuclei in " + targets.size() + " image(s), " + totals.removed + " earlier ones replaced. " + note
        return totals + [message: message + warnings]
    }

    /** Imports what was predicted without a window: a run into the open image, or those of a project into its images. */
    Map importResults() {
        def folder = resultsFolder()
        def record = read(new File(folder, "run.json"))
        if (record.kind != "project") {
            if (imageData == null)
                throw new IllegalStateException("expected an open image for the run in " + folder + ", found none; open it")
            return bring([[data: imageData, run: runOf(folder, record, entry?.getID(), entry?.getImageName() ?: "the open image")]])
        }
        if (project == null)
            throw new IllegalStateException("expected a project for the runs in " + folder + ", found none; open it")
        def rows = record.images.findAll { it.status == "done" }
        def entries = project.getImageList().collectEntries { [it.getID(), it] }
        def strange = rows.findAll { entries[it.id]?.getImageName() != it.name }
        if (rows.isEmpty() || strange)
            throw new IllegalStateException("expected runs of images of this project in " + folder + ", found "
                + (rows.isEmpty() ? "none" : strange*.name.join(", ")) + "; open the project they were made for")
        return bring(rows.collect { row ->
            def one = entries[row.id]
            def open = one == entry
            def run = new File(folder, row.run)
            [data: open ? imageData : one.readImageData(), save: open ? null : one,
             run: runOf(run, read(new File(run, "run.json")), row.id, row.name)]
        })
    }

    /** options.from, else what the package noted in a project it made; in a window the user is asked. */
    private File resultsFolder() {
        def note = workFolder() == null ? null : new File(workFolder(), "results.json")
        def named = options.from ?: (note?.isFile() ? read(note).output : null)
        def folder = named == null ? null : new File(named)
        if (folder != null && !folder.isAbsolute() && !options.from)
            folder = new File(workFolder().getParentFile(), named)
        if (folder == null && gui() != null)
            folder = window().askFolder("Import a run, or the runs of a project")
        if (folder == null)
            throw new IllegalStateException("expected the folder of a run, found none; pass from=FOLDER")
        if (!new File(folder, "run.json").isFile())
            throw new IllegalStateException("expected run.json in " + folder + ", found none; choose the output of a prediction")
        return folder.getCanonicalFile()
    }

    /** What run.json says, in the words of the worker's answer. */
    private static Map runOf(File folder, Map record, id, name) {
        return [id: id, name: name, folder: folder.getPath(), cells: record.cells, regions: record.regions,
                research_use: record.research_use, warnings: record.warnings]
    }

    /** Colours our nuclei by options.gene, or by the gene the user picks. */
    Map showGene() {
        if (gui() == null)
            throw new IllegalStateException("expected QuPath's window, found none; Show gene only colours what is seen")
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one")
        def genes = nuclei().genesOf(imageData)
        if (genes.isEmpty())
            throw new IllegalStateException("expected predicted nuclei in this image, found none; predict first")
        def gene = options.gene ?: window().askGene(genes)
        if (gene == null)
            throw new InterruptedException("no gene was chosen")
        if (!genes.contains(gene))
            throw new IllegalArgumentException("expected a gene out of " + genes.join(", ") + ", found " + gene)
        def note = imageData.getProperty(nuclei().RESEARCH_USE) ?: "Research use only. Predicted from H&E context. Not a diagnostic test."
        window().color(nuclei().ownObjects(imageData), "STimage: " + gene + ": mean", note.toString())
        return [message: "nuclei are coloured by " + gene + ". " + note, quiet: true]
    }

    /** Predicts again, with one gene explained, and colours the nuclei by how much each drove its prediction. */
    Map explainGene() {
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one and draw an annotation")
        def gene = options.gene ?: (gui() == null ? null : window().askGene(nuclei().genesOf(imageData)))
        if (!gene)
            throw new IllegalStateException("expected a gene to explain, found none; predict first, or write it at the top of the script")
        options.explain = gene
        def done = predictOpenImage()
        def note = "Faithful to the model, not evidence of biology. " + (imageData.getProperty(nuclei().RESEARCH_USE) ?: "")
        if (gui() != null)
            window().color(nuclei().ownObjects(imageData), "STimage: " + gene + ": attribution", note)
        return done + [message: done.message + " Nuclei carry how much each drove " + gene + ". " + note]
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
        def own = nuclei().ownObjects(imageData)
        if (own.isEmpty())
            throw new IllegalStateException("expected predicted nuclei in this image, found none; predict first")
        if (!options.to)
            throw new IllegalStateException("expected a folder to export to, found none; pass to=FOLDER")
        def name = (entry?.getImageName() ?: imageData.getServer().getMetadata().getName()).replaceAll(/[^\p{L}\p{N}._-]+/, "_")
        def folder = new File(options.to.toString(), name)
        folder.mkdirs()
        PathIO.exportObjectsAsGeoJSON(new File(folder, "nuclei.geojson"), own, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
        nuclei().writeTable(new File(folder, "nuclei.csv"), own)
        def run = imageData.getProperty(nuclei().RUN_FOLDER)
        ["cells.h5ad", "cells.parquet", "run.json"].each {
            def source = run == null ? null : new File(run.toString(), it)
            if (source?.isFile())
                Files.copy(source.toPath(), new File(folder, it).toPath(), java.nio.file.StandardCopyOption.REPLACE_EXISTING)
        }
        return [message: own.size() + " nuclei written to " + folder, folder: folder.getPath()]
    }

    /** Holds the last run of the open image, or options.from, against its annotations with a class. */
    Map validateOpenImage() {
        if (imageData == null)
            throw new IllegalStateException("expected an open image, found none; open one")
        def validation = part("StimageValidation").getConstructor(Map, Gson).newInstance(options, gson)
        def annotations = validation.annotationsOf(imageData)
        if (annotations.isEmpty())
            throw new IllegalStateException("expected annotations with a class, found none; draw some and set their class")
        def run = validation.runOf(imageData, nuclei().RUN_FOLDER)
        def job = newJob()
        def file = new File(job, "annotations.geojson")
        request().writeObjects(file, annotations)
        validation.settings(job, run, file)
        def python = worker()
        python.run(job, ["--validate", "validate.json"], "Validating")
        return validation.finish(python.response(job), gui() != null)
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

    private Map read(File file) { gson.fromJson(file.getText("UTF-8"), Map) }

    private def request() { part("StimageRequest").getConstructor(Map, Object, Gson).newInstance(options, project, gson) }

    private def worker() { part("StimageWorker").getConstructor(File, Class).newInstance(home, gui() == null ? null : window()) }

    private Class nuclei() { part("StimageNuclei") }

    /** What needs a display is in a class of its own, which is loaded only where there is one. */
    Class window() { part("StimageWindow") }

    /** The class in a file beside this one. */
    private Class part(String name) {
        if (!parts.containsKey(name))
            parts[name] = new GroovyClassLoader(getClass().getClassLoader())
                .parseClass(new GroovyCodeSource(new File(home, name + ".groovy"), "UTF-8"))
        return parts[name]
    }
}
