"""Reports: one HTML file about finished runs, the same bytes for the same runs.

`run_report` writes the report of `tljax report` from the sections in `scenario_scores`,
`learning_curves`, `joint_tasks`, `predictions` (with `outputs`, for several labels an image and for
numbers) and `plans_and_costs`. `demo_report` writes that of `tljax demo`. Both use `page` (the HTML
file), `figures` (drawings), `measures` and `formatting` (numbers as text), `cells` (runs that are
compared) and `benefit_text` (what transfer gained).
"""
