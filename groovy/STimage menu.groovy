/**
 * STimage menu: adds Extensions > STimage to QuPath.
 *
 * Set it as startup script (Edit > Preferences > Startup script path; in QuPath 0.4 copy its text into startup.groovy
 * of the user folder), or run it once in a session.
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.gui.QuPathGUI
import qupath.lib.scripting.QP

// Finds the folder of the STimage scripts: this script's own, the project's, or that of the user folder.
def own = binding.hasVariable("qupath.script.file") ? new File(binding.getVariable("qupath.script.file").toString()).getParentFile() : null
def ofProject = QP.getProject()?.getPath() == null ? null : new File(QP.getProject().getPath().toFile().getParentFile(), "scripts/STimage")
def ofUser = (new File(System.getProperty("user.home"), "QuPath").listFiles() ?: []).sort().reverse().collect { new File(it, "scripts/STimage") }
def home = ([own, ofProject] + ofUser).find { it != null && new File(it, "StimageBridge.groovy").isFile() }
if (home == null)
    throw new IllegalStateException("expected StimageBridge.groovy beside this script, found none; run: stimage-qupath install-scripts")
def gui = QuPathGUI.getInstance()
if (gui == null)
    throw new IllegalStateException("expected QuPath's window, found none; the menu is of no use without")
def bridge = {
    def source = new GroovyCodeSource(new File(home, "StimageBridge.groovy"), "UTF-8")
    new GroovyClassLoader(QuPathGUI.class.getClassLoader()).parseClass(source).getConstructor(File, Map, Object).newInstance(home, [:], null)
}
def add = { name, work -> gui.installCommand("Extensions>STimage>" + name, { work(bridge()) } as Runnable) }

add("Check setup") { b -> b.perform("Check setup") { b.checkSetup() } }
add("Predict selected annotations...") { b -> b.askAndPredict(false) }
add("Predict for project...") { b -> b.askAndPredict(true) }
add("Import results...") { b -> b.perform("Import results") { b.importResults() } }
add("Show gene...") { b -> b.perform("Show gene") { b.showGene() } }
add("Explain a gene...") { b -> b.perform("Explain a gene") { b.explainGene() } }
add("Validate against annotations") { b -> b.perform("Validate against annotations") { b.validateOpenImage() } }
add("Export...") { b ->
    b.options.to = b.window().askFolder("Export predicted nuclei to")?.getPath() ?: ""
    if (b.options.to)
        b.perform("Export") { b.exportOpenImage() }
}
