"""Markup, styles and program of the page; :mod:`tools.view.page_file` puts them together."""
