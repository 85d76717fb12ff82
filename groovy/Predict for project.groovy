/**
 * Predict for project: predicts the annotations of all images of a project, with one Python process.
 *
 * Run it once, with "Run", not with "Run for project". Images that are not open are saved; the open one is not.
 * Research use only. Predicted from H&E context. Please cite doi.org/10.1038/s41467-026-68487-0
 */
import groovy.lang.GroovyClassLoader
import groovy.lang.GroovyCodeSource
import java.io.File
import qupath.lib.scripting.QP

def values = [
    genes: "",         // for example "ERBB2,EPCAM"; empty: those the model predicts best
    model: "starter",  // or the path of a model folder
    unit: "cells",     // "cells": a window on each nucleus; "grid": faster, interpolated
    segmenter: "classical",  // "he": the network for H&E nuclei; "stardist", "stardist:FOLDER"
    device: "auto",    // "auto", "cpu", "cuda" or "mps"
    classes: "",       // for example "Tumor,Stroma"; empty: annotations of every class
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
    bridge.perform("Predict for project") { bridge.predictProject() }
