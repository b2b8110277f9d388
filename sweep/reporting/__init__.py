"""The report's page and figures: from a results table and its rules to HTML, SVG and PNG.

`figures` describes what is drawn once (`charts`); `svg` and `png` draw it. `page` puts words, figures and tables
together. Every text goes through `markup`, which escapes it: names come from tables that anybody may have written.
"""
