/**
 * The Python process of the STimage scripts: started, listened to, cancelled, and its answer.
 *
 * Not a script to run: StimageBridge.groovy loads it.
 */

import com.google.gson.Gson
import java.io.File
import java.util.Locale
import java.util.concurrent.TimeUnit
import org.slf4j.LoggerFactory

class StimageWorker {

    final def log = LoggerFactory.getLogger("STimage")
    final Gson gson = new Gson()
    final File home
    final Class windows

    /** home: folder of the scripts, with the settings; windows: StimageWindow, or null where there is no display. */
    StimageWorker(File home, Class windows) {
        this.home = home
        this.windows = windows
    }

    /** Runs the worker in the job folder and returns its lines; a cancel is an InterruptedException. */
    List run(File job, List words, String title) {
        def events = Collections.synchronizedList([])
        def window = windows == null ? null : windows.open(title)
        def process = null
        try {
            process = start(job, words)
            def reader = new Thread({ listen(process, events, window) } as Runnable, "STimage output")
            reader.setDaemon(true)
            reader.start()
            while (!process.waitFor(200, TimeUnit.MILLISECONDS))
                if (window?.cancelled)
                    throw new InterruptedException("cancelled; nothing was changed")
            reader.join(5000)
            return events.findAll { it.event == "started" }
        } catch (InterruptedException e) {
            if (process != null)
                cancel(job, process)
            throw new InterruptedException("cancelled; nothing was changed")
        } finally {
            window?.close()
        }
    }

    private Process start(File job, List words) {
        def command = [interpreter(), "-u", "-X", "utf8", "-m", "stimage_qupath", "worker"] + words
        def builder = new ProcessBuilder(command*.toString())
        builder.directory(job)
        builder.redirectError(new File(job, "worker.log"))
        def env = builder.environment()
        ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP"].each { env.remove(it) }
        env.put("PYTHONNOUSERSITE", "1")
        env.put("STIMAGE_PARENT_PID", String.valueOf(ProcessHandle.current().pid()))
        def process = builder.start()
        process.getOutputStream().close()
        return process
    }

    private void listen(Process process, List events, window) {
        long said = 0
        process.getInputStream().eachLine("UTF-8") { line ->
            if (!line.startsWith("@@STIMAGE "))
                return
            def event = gson.fromJson(line.substring(10), Map)
            if (event.event != "progress")
                events << event
            window?.show(event)
            long now = System.currentTimeMillis()
            if (event.event == "progress" && now - said > 5000) {
                said = now
                log.info("{} {}", event.stage, event.total ? String.format(Locale.US, "%.0f of %.0f", event.done, event.total) : "")
            }
        }
    }

    /** Ask, wait two seconds, then end what the worker started and the worker itself. */
    private void cancel(File job, Process process) {
        new File(job, "cancel").createNewFile()
        if (!process.waitFor(2, TimeUnit.SECONDS)) {
            process.descendants().forEach { it.destroyForcibly() }
            process.destroy()
            if (!process.waitFor(200, TimeUnit.MILLISECONDS))
                process.destroyForcibly()
        }
    }

    /** Returns what the worker answered, if it is done; else an exception with its words and the end of its log. */
    Map response(File job) {
        def file = new File(job, "response.json")
        if (!file.isFile())
            throw new IllegalStateException("expected an answer, found none: the Python process was killed or could not start\n" + tail(job))
        def answer = gson.fromJson(file.getText("UTF-8"), Map)
        if (answer.status == "cancelled")
            throw new InterruptedException(answer.error.message)
        if (answer.status == "failed")
            throw new IllegalStateException(answer.error.message + "\n" + answer.error.hint + "\n" + tail(job))
        return answer
    }

    private static String tail(File job) {
        def log = new File(job, "worker.log")
        def lines = log.isFile() ? log.readLines("UTF-8") : []
        return "Log: " + log + "\n" + lines.drop(Math.max(0, lines.size() - 15)).join("\n")
    }

    private String interpreter() {
        def file = new File(home, "stimage-settings.json")
        if (!file.isFile())
            throw new IllegalStateException("expected " + file + ", found none; run: stimage-qupath install-scripts")
        def path = gson.fromJson(file.getText("UTF-8"), Map).interpreter
        if (!new File(path).isFile())
            throw new IllegalStateException("expected Python at " + path + ", found none; run again: stimage-qupath install-scripts")
        return path
    }
}
