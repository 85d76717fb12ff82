"""QuPath projects through paquo; imported by the bridge's process alone, since the JVM starts with it."""
