"""What setup.cfg cannot say: our packages by pattern, and beside them one file for Twisted's plugin directory."""

from setuptools import find_packages, setup

OURS = ("homeserver", "storage", "federation", "api", "synapse_compat", "sytest_scenarios")

setup(
    packages=[*find_packages(include=[pattern for name in OURS for pattern in (name, f"{name}.*")]), "twisted.plugins"],
    # `twistd homeserver` looks for its plugins in the folder twisted/plugins, which belongs to no single distribution.
    # The mapped folder must hold no __init__.py: it would overwrite Twisted's.
    package_dir={"twisted.plugins": "homeserver/twistd_plugin"},
)
