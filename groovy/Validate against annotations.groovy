/**
 * Validate against annotations: holds the predicted nuclei of the open image against its annotations with a class.
 *
 * Writes a page with, for each class and gene, how well the prediction tells the class apart, beside nuclear density and
 * stain. Nothing in the image is changed. Research use only. Agreement with the annotations given is not a diagnosis.
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.scripting.QP

def values = [
    genes: "",         // for example "ERBB2,EPCAM"; empty: those the nuclei carry
    classes: "",       // for example "Tumor,Stroma"; empty: annotations of every class
    rest: "annotated", // what a class is compared with: "annotated" nuclei of other classes, or "all" other nuclei
    second: "",        // GeoJSON of another person's annotations of this image
    from: "",          // folder with run.json; empty: the run the nuclei came from
    to: "",            // folder to make for the page; empty: one in the folder of the job
]

// Finds the folder of the STimage scripts: this script's own, the project's, or that of the user folder.
def own = binding.hasVariable("qupath.script.file") ? new File(binding.getVariable("qupath.script.file").toString()).getParentFile() : null
def ofProject = QP.getProject()?.getPath() == null ? null : new File(QP.getProject().getPath().toFile().getParentFile(), "scripts/STimage")
def ofUser = (new File(System.getProperty("user.home"), "QuPath").listFiles() ?: []).sort().reverse().collect { new File(it, "scripts/STimage") }
def home = ([own, ofProject] + ofUser).find { it != null && new File(it, "StimageBridge.groovy").isFile() }
if (home == null)
    throw new IllegalStateException("expected StimageBridge.groovy beside this script, found none; run: stimage-qupath install-scripts")
def loader = new GroovyClassLoader(getClass().getClassLoader())
def type = loader.parseClass(new GroovyCodeSource(new File(home, "StimageBridge.groovy"), "UTF-8"))
def words = binding.hasVariable("args") ? binding.getVariable("args") : null
def bridge = type.getConstructor(File, Map, Object).newInstance(home, values, words)
bridge.perform("Validate against annotations") { bridge.validateOpenImage() }
