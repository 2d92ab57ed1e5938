"""Renders and lints the chart by Helm's own library; run by the Python of build/deploy, with values as JSON.

They come on the standard input, and pass the chart's schema first, as `helm install` has it. What Helm refuses is said
on the standard error.
"""

import json
import sys

import helm_python as helm


def main(chart_folder: str) -> None:
    values = json.load(sys.stdin)
    try:
        chart = helm.Chart.load(chart_folder)
        chart.validate_schema(values)
        manifests = chart.render(values, name="gw", namespace="tests", is_install=True)
        found = helm.lint(chart_folder, values, strict=True)
    except helm.HelmError as error:
        sys.exit(str(error))
    print(json.dumps({"manifests": manifests, "lint": found}))


main(sys.argv[1])
