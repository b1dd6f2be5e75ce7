"""What `safelight serve` does: timetables, due runs, late runs."""
