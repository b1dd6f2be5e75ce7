"""The frozen backbone of a workspace: exported once as ONNX, found by its description, checked to the byte.

The record is written after the file that it names: where it is, the backbone is complete.
"""

import logging
import threading
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from cnn.digest import hash_file
from cnn.errors import IntegrityError
from cnn.inference.backbone import BackboneSpec, export_backbone
from cnn.inference.onnx import open_session
from infra.storage.layout import backbone_path, backbone_record_path
from infra.storage.store import Store, reuse_store
from tasks.features.spec import BackboneRecord, ExportJob

logger = logging.getLogger(__name__)
_loading = threading.Lock()  # of threads that begin at once, one loads and the others find it loaded


def find_backbone_record(store: Store, backbone: BackboneSpec) -> BackboneRecord | None:
    """The record of a backbone that was exported; None where there is none, or its file is gone or damaged, which the
    log says."""
    path = backbone_record_path(backbone.compute_digest())
    if not store.exists(path):
        return None
    try:
        record = BackboneRecord.model_validate_json(store.read(path))
        file = backbone_path(record.sha256)
        is_whole = store.exists(file) and hash_file(store.fetch(file)) == record.sha256
        if is_whole and record.backbone == backbone:
            return record
    except ValidationError:
        pass
    logger.warning(
        "%s is damaged, or the file that it names is damaged or gone; the backbone is exported anew", store.uri_of(path)
    )
    return None


def export_to_workspace(job: ExportJob) -> BackboneRecord:
    """Export a backbone into a workspace; for the process that has Keras.

    Raises:
        ConfigError, InstallationError, TrainingError: as `cnn.inference.backbone.export_backbone`.
    """
    store = reuse_store(job.workspace)
    with TemporaryDirectory(dir=job.folder) as folder:
        path = Path(folder, "backbone.onnx")
        features = export_backbone(job.backbone, path)
        record = BackboneRecord(backbone=job.backbone, sha256=hash_file(path), features=features)
        store.put_file(backbone_path(record.sha256), path)
    store.write(backbone_record_path(job.backbone.compute_digest()), record.to_json().encode())
    return record


def load_backbone(workspace: str, sha256: str) -> Any:
    """The session of a backbone, opened once in a process. It computes in the thread that calls it, so that the bits
    are the same however many there are.

    Raises:
        IntegrityError: the file is damaged.
    """
    with _loading:
        return _open_backbone(workspace, sha256)


@lru_cache(maxsize=2)
def _open_backbone(workspace: str, sha256: str) -> Any:
    store = reuse_store(workspace)
    path = store.fetch(backbone_path(sha256))
    if hash_file(path) != sha256:
        store.delete(backbone_path(sha256))
        raise IntegrityError(f"{store.uri_of(backbone_path(sha256))} is damaged and was removed; run again")
    return open_session(path.read_bytes(), threads=1)
