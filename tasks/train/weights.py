"""Pretrained weights: made sure of before a run begins, so that what is missing costs no hour of preparing."""

from urllib.parse import urlsplit

from cnn.errors import ConfigError
from cnn.models.architecture import ModelSpec, check_weights
from cnn.models.hub import is_hub_name
from cnn.models.pretrained import Download
from infra.machine.downloads import find_host_fault


def require_weights(spec: ModelSpec, size: tuple[int, int] = (224, 224)) -> Download | None:
    """Nothing, where the pretrained weights that the spec names lie on this machine, or it names none; what will be
    downloaded, where its host answers. `size`: height and width of the images in pixels.

    Raises:
        ConfigError: the weights cannot be had, or are those of another network.
        InstallationError: a package that holds them is missing.
    """
    download = check_weights(spec, size)
    if download is not None and (obstacle := find_host_fault(download.address)) is not None:
        raise ConfigError(describe_obstacle(spec, download, obstacle))
    return download


def describe_obstacle(spec: ModelSpec, download: Download, obstacle: str) -> str:
    """What to say where weights would have to be downloaded and cannot be: one line, with the ways out."""
    host = urlsplit(download.address).hostname
    if is_hub_name(spec.backbone):
        setting, local = f"model.backbone: the weights of {spec.backbone}", "keras_hub:./FOLDER, a folder of KerasHub"
    else:
        setting, local = f'model.weights: "{spec.weights}" of {spec.backbone}', "the path of a local weights file"
    return (
        f"{setting} must be downloaded from {host}, which cannot be reached ({obstacle}); give {local}, or take "
        "model.backbone = efficientnet_lite0, whose weights are installed"
    )


def describe_download(download: Download) -> str:
    """One line on what is downloaded."""
    return f"weights: downloaded once, from {urlsplit(download.address).hostname} to {download.path}"
