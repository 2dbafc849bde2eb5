"""The report as one HTML file that needs nothing else: no network, no script.

    axis    from values to pixels, and round values to label      axis.py
    chart   a panel with lines, as SVG                            chart.py
    plots   what is drawn of a run                                plots.py, ratios.py
    page    all of it, by a template                              page.py, page.html.j2

Colours are the style sheet's, so that they follow the reader's light or dark mode.
"""
