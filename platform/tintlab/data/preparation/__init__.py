"""The parts of a preparation: its tasks, its folder, its account of every input, its report."""
