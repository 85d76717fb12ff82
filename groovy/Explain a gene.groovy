/**
 * Explain a gene: predicts the selected annotations again and says of each nucleus how much it drove the prediction.
 *
 * Each nucleus gets "STimage: GENE: attribution", the change of the log of the expected count that it makes, and its SD
 * over the members of the model; with a window, nuclei are coloured by it. Nuclei of an earlier prediction are replaced.
 * Faithful to the model, not evidence of biology. Research use only. Please cite doi.org/10.1038/s41467-026-68487-0
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.scripting.QP

def values = [
    gene: "",          // for example "ERBB2"; empty: you are asked
    model: "starter",  // or the path of a model folder
    device: "auto",    // "auto", "cpu", "cuda" or "mps"
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
bridge.perform("Explain a gene") { bridge.explainGene() }
