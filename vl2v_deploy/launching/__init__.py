"""Many runs as commands of their own: printed, run here at once, or handed to a cluster."""
