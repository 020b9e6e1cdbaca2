"""What the wheel carries beside the packages: the zoo and the server's configuration.

They stand at the top of the repository, where a user's project has its own. Not for an editable
install, which would get a copy that ages.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Bundled(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["models"] = "vestal/zoo"
            build_data["force_include"]["config.properties"] = (
                "vestal/configuration/config.properties"
            )
