/**
 * What the STimage scripts show in QuPath's window: progress with a Cancel button, questions, and colours.
 *
 * Loaded by StimageBridge.groovy, and only where there is a window.
 */

import java.io.File
import java.util.Locale
import java.util.concurrent.CountDownLatch
import javafx.application.Platform
import javafx.geometry.Insets
import javafx.scene.Scene
import javafx.scene.control.Alert
import javafx.scene.control.Button
import javafx.scene.control.ButtonType
import javafx.scene.control.ChoiceBox
import javafx.scene.control.ChoiceDialog
import javafx.scene.control.Dialog
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.control.TextArea
import javafx.scene.control.TextField
import javafx.scene.layout.AnchorPane
import javafx.scene.layout.GridPane
import javafx.scene.layout.VBox
import javafx.stage.DirectoryChooser
import javafx.stage.Stage
import qupath.lib.color.ColorMaps
import qupath.lib.common.ColorTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.objects.PathObject

class StimageWindow {

    static final String NOTE_ID = "stimage-note"
    static final String OUTSIDE = "STimage: outside training"

    volatile boolean cancelled = false
    private Stage stage
    private ProgressBar bar
    private Label label

    /** Opens a progress window; show() moves it, close() ends it, cancelled says what the user wants. */
    static StimageWindow open(String title) {
        def window = new StimageWindow()
        onFx {
            window.bar = new ProgressBar(-1)
            window.bar.setPrefWidth(420)
            window.label = new Label("starting")
            def cancel = new Button("Cancel")
            def stop = { window.cancelled = true; cancel.setDisable(true); window.label.setText("cancelling") }
            cancel.setOnAction { stop() }
            def box = new VBox(10, window.label, window.bar, cancel)
            box.setPadding(new Insets(14))
            window.stage = new Stage()
            window.stage.initOwner(QuPathGUI.getInstance().getStage())
            window.stage.setTitle("STimage: " + title)
            window.stage.setScene(new Scene(box))
            window.stage.setOnCloseRequest { it.consume(); stop() }
            window.stage.show()
        }
        return window
    }

    /** Shows a progress event of the worker. */
    void show(Map event) {
        if (event.event != "progress")
            return
        def total = event.total as double
        def done = event.done as double
        def count = total > 0 ? "   " + (done as long) + " of " + (total as long) : ""
        Platform.runLater {
            if (cancelled)
                return
            label.setText(event.stage + count)
            bar.setProgress(total > 0 ? done / total : -1)
        }
    }

    void close() { Platform.runLater { stage.hide() } }

    static boolean isFxThread() { Platform.isFxApplicationThread() }

    /** Says how a script ended, without waiting for an answer; the text can be copied. */
    static void say(String title, String text, boolean failed) {
        Platform.runLater {
            def alert = new Alert(failed ? Alert.AlertType.ERROR : Alert.AlertType.INFORMATION)
            alert.initOwner(QuPathGUI.getInstance().getStage())
            alert.setTitle(title)
            alert.setHeaderText(text.readLines() ? text.readLines()[0].take(200) : title)
            def area = new TextArea(text)
            area.setEditable(false)
            area.setWrapText(true)
            alert.getDialogPane().setContent(area)
            alert.show()
        }
    }

    /** Asks for model, genes, unit, segmenter and device; null when the user cancels. */
    static Map askSettings(Map now) {
        return onFx {
            def fields = [model: new TextField(now.model), genes: new TextField(now.genes)]
            fields.genes.setPromptText("the model's best; or ERBB2,EPCAM")
            fields.unit = new ChoiceBox()
            fields.unit.getItems().addAll("cells", "grid")
            fields.device = new ChoiceBox()
            fields.device.getItems().addAll("auto", "cpu", "cuda", "mps")
            fields.segmenter = new ChoiceBox()
            fields.segmenter.getItems().addAll(["classical", "he", "stardist", now.segmenter].unique())
            fields.unit.setValue(now.unit)
            fields.segmenter.setValue(now.segmenter)
            fields.device.setValue(now.device)
            def labels = [model: "Model (starter, or a folder)", genes: "Genes", unit: "Unit", segmenter: "Nuclei outlined by", device: "Device"]
            def grid = new GridPane()
            grid.setHgap(10)
            grid.setVgap(8)
            labels.eachWithIndex { key, text, row ->
                grid.add(new Label(text), 0, row)
                grid.add(fields[key], 1, row)
            }
            def dialog = new Dialog()
            dialog.initOwner(QuPathGUI.getInstance().getStage())
            dialog.setTitle("STimage: predict")
            dialog.setHeaderText("Research use only. Predicted from H&E context.")
            dialog.getDialogPane().setContent(grid)
            dialog.getDialogPane().getButtonTypes().addAll(ButtonType.OK, ButtonType.CANCEL)
            def answer = dialog.showAndWait()
            if (!answer.isPresent() || answer.get() != ButtonType.OK)
                return null
            return [model: fields.model.getText().trim(), genes: fields.genes.getText().trim(),
                    unit: fields.unit.getValue(), segmenter: fields.segmenter.getValue(), device: fields.device.getValue()]
        }
    }

    /** Asks for one of several genes; null when the user cancels. */
    static String askGene(List genes) {
        return onFx {
            def dialog = new ChoiceDialog(genes[0], genes)
            dialog.initOwner(QuPathGUI.getInstance().getStage())
            dialog.setTitle("STimage: show gene")
            dialog.setHeaderText("Gene whose predicted expression colours the nuclei")
            return dialog.showAndWait().orElse(null)
        }
    }

    static File askFolder(String title) {
        return onFx {
            def chooser = new DirectoryChooser()
            chooser.setTitle(title)
            return chooser.showDialog(QuPathGUI.getInstance().getStage())
        }
    }

    /** Colours nuclei by the measurement, those outside training grey, and puts the note on the viewer. */
    static void color(Collection objects, String measurement, String note) {
        def inside = objects.findAll { !isOutside(it) }
        def values = inside.collect { it.getMeasurementList().get(measurement) }.findAll { !Double.isNaN(it) }.sort()
        onFx {
            def gui = QuPathGUI.getInstance()
            def mapper = greyingMapper(measurement, inside ?: objects)
            if (values) {
                mapper.setDisplayMinValue(values[(int) (0.02 * (values.size() - 1))])
                mapper.setDisplayMaxValue(values[(int) (0.98 * (values.size() - 1))])
            }
            def options = gui.getOverlayOptions()
            options.setShowDetections(true)
            options.setFillDetections(true)
            options.setMeasurementMapper(mapper)
            def range = values ? String.format(Locale.US, "%.3g (dark) to %.3g (bright), grey: outside training",
                mapper.getDisplayMinValue(), mapper.getDisplayMaxValue()) : "all nuclei are outside training (grey)"
            showNote(gui.getViewer(), measurement + ": " + range + "\n" + note)
            gui.getViewer().repaintEntireImage()
        }
    }

    private static MeasurementMapper greyingMapper(String measurement, Collection objects) {
        def map = ColorMaps.getColorMaps().get("Viridis") ?: ColorMaps.getColorMaps().values().iterator().next()
        def grey = ColorTools.packRGB(150, 150, 150)
        return new MeasurementMapper(map, measurement, objects) {
            @Override
            Integer getColorForObject(PathObject object) {
                return StimageWindow.isOutside(object) ? grey : super.getColorForObject(object)
            }
        }
    }

    static boolean isOutside(PathObject object) { object.getMeasurementList().get(OUTSIDE) == 1.0d }

    /** A line over the image that stays until another takes its place. */
    private static void showNote(viewer, String text) {
        def view = viewer.getView()
        def pane = view.getChildren().find { it instanceof AnchorPane } ?: view
        pane.getChildren().removeAll(pane.getChildren().findAll { it.getId() == NOTE_ID })
        def note = new Label(text)
        note.setId(NOTE_ID)
        note.setMouseTransparent(true)
        note.setWrapText(true)
        note.maxWidthProperty().bind(view.widthProperty().subtract(190))  // beside the overview
        note.setStyle("-fx-background-color: rgba(0,0,0,0.65); -fx-text-fill: white; -fx-padding: 4 8 4 8;")
        AnchorPane.setTopAnchor(note, 5.0d)
        AnchorPane.setLeftAnchor(note, 5.0d)
        pane.getChildren().add(note)
    }

    /** Does something on the JavaFX thread and returns what it gives. */
    private static def onFx(Closure work) {
        if (isFxThread())
            return work.call()
        def result = null
        def problem = null
        def done = new CountDownLatch(1)
        Platform.runLater {
            try {
                result = work.call()
            } catch (Throwable e) {
                problem = e
            } finally {
                done.countDown()
            }
        }
        done.await()
        if (problem != null)
            throw problem
        return result
    }
}
