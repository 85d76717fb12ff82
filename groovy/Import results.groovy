/**
 * Import results: brings nuclei that were predicted outside this QuPath into it, a run or those of a whole project.
 *
 * The open image is not saved. Running again replaces what was there before, and nothing else.
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.scripting.QP

def values = [
    from: "",          // folder with run.json; empty: that of the project, or you are asked
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
// QuPath starts a script of the command line once an image; the first start does them all
def index = binding.hasVariable("qupath.script.batchIndex") ? binding.getVariable("qupath.script.batchIndex") as int : 0
if (index <= 0)
    bridge.perform("Import results") { bridge.importResults() }
