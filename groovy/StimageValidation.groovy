/**
 * The validation of the STimage scripts: annotations and the last run go to the Python package, a page comes back.
 *
 * Not a script to run: StimageBridge.groovy loads it.
 */

import com.google.gson.Gson
import java.awt.Desktop
import java.io.File
import org.slf4j.LoggerFactory
import qupath.lib.images.ImageData

class StimageValidation {

    final def log = LoggerFactory.getLogger("STimage")
    final Map options
    final Gson gson

    /** options: those of the bridge; gson: writes the files. */
    StimageValidation(Map options, Gson gson) {
        this.options = options
        this.gson = gson
    }

    /** Annotations with a class, areas and points; those of options.classes where there are some. */
    List annotationsOf(ImageData data) {
        def classes = options.classes.toString().split(",")*.trim().findAll { it }
        return data.getHierarchy().getAnnotationObjects().findAll {
            it.hasROI() && (it.getROI().isArea() || it.getROI().isPoint()) && it.getPathClass()?.toString() &&
                (classes.isEmpty() || classes.contains(it.getPathClass().toString()))
        } as List
    }

    /** options.from, else the run that the nuclei of the image were imported from. */
    File runOf(ImageData data, String property) {
        def named = options.from ?: data.getProperty(property)
        if (!named)
            throw new IllegalStateException("expected predicted nuclei in this image, found none; predict first, or pass from=FOLDER")
        def folder = new File(named.toString()).getCanonicalFile()
        if (!new File(folder, "run.json").isFile())
            throw new IllegalStateException("expected the run of this image in " + folder + ", found none; predict again, or pass from=FOLDER")
        return folder
    }

    /** Writes the settings beside the annotations and returns their file; every path travels in it. */
    File settings(File job, File run, File annotations) {
        def output = options.to ? new File(options.to.toString()).getAbsoluteFile() : new File(job, "validation")
        def words = options.genes.toString().split(",")*.trim().findAll { it }
        def body = [run: run.getPath(), annotations: annotations.getPath(), output: output.getPath(), genes: words,
                    rest: options.rest ?: "annotated", second: options.second ? new File(options.second.toString()).getAbsolutePath() : null,
                    seed: options.seed ? options.seed.toString().toInteger() : 0]
        def file = new File(job, "validate.json")
        file.setText(gson.toJson(body), "UTF-8")
        return file
    }

    /** What the script says of the answer; with a window the page opens in the browser. */
    Map finish(Map answer, boolean show) {
        def done = answer.images[0]
        def page = new File(done.folder, "validation.html")
        if (show)
            browse(page)
        def warnings = done.warnings.collect { "\n" + it }.join("")
        return [message: "the report is " + page + ". " + done.research_use + warnings, report: page.getPath(), folder: done.folder]
    }

    private void browse(File page) {
        def open = {
            try {
                if (Desktop.isDesktopSupported() && Desktop.getDesktop().isSupported(Desktop.Action.BROWSE))
                    Desktop.getDesktop().browse(page.toURI())
            } catch (IOException | UnsupportedOperationException e) {
                log.warn("the page could not be opened: {}", e.getMessage())
            }
        }
        def thread = new Thread(open as Runnable, "STimage page")
        thread.setDaemon(true)
        thread.start()
    }
}
