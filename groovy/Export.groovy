/**
 * Export: writes the predicted nuclei of the open image as GeoJSON and CSV, with the tables of their run.
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.scripting.QP

def values = [
    to: "",            // folder; empty: you are asked
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
if (!bridge.options.to && bridge.gui() != null)
    bridge.options.to = bridge.window().askFolder("Export predicted nuclei to")?.getPath() ?: ""
bridge.perform("Export") { bridge.exportOpenImage() }
