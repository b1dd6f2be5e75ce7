"""Settings of the local Prefect server."""

from pydantic import Field

from cnn.spec import Settings

# The variable that says what Prefect prints in a terminal.
CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


class ServerSpec(Settings):
    """The local Prefect server that a command starts; not obeyed where PREFECT_API_URL names another server."""

    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        examples=[4200],
        description="its port on 127.0.0.1; 0 or not set: 4200, or any other that is free",
    )
    idle_minutes: float | None = Field(
        60.0,
        gt=0,
        description="minutes without a command or a browser after which it ends; --set server.idle_minutes=null:"
        " never, as with `safelight up`",
    )
