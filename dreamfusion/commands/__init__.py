"""What each command does, in the order: check all that can be checked, say what was chosen, work, say what came of it."""
