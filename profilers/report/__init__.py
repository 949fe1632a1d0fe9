"""A report's files: tables, pictures, the page.

Imports `compare`.
"""
