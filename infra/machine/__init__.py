"""This machine: user folders, import path, memory limits, proxies."""
