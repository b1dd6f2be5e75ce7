"""The project's folder, its rooms, and every module of the product."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("cnn", "infra", "tasks", "flows")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
