"""The stage `features`: a frozen backbone sees every new image of a dataset once, and its mirror image."""

from dataclasses import dataclass
from pathlib import Path

from cnn.dataset.manifest import Manifest
from cnn.inference.backbone import BackboneSpec, describe_backbone
from cnn.models.architecture import ModelSpec
from flows.progress import log_message, show_stage
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.store import Store
from infra.storage.workspace import lock_workspace
from tasks.features.backbone import find_backbone_record
from tasks.features.compute import compute_blocks
from tasks.features.plan import FeaturePlan, plan_features
from tasks.features.spec import BackboneRecord, ExportJob
from tasks.train.process import TrainingProcess


@dataclass(frozen=True)
class FeaturesJob:
    """What is asked for: a dataset's features by the pretrained backbone of a model. `folder` is the run's own."""

    store: Store
    manifest: Manifest
    model: ModelSpec
    folder: Path


def features_stage(job: FeaturesJob, trainer: TrainingProcess, cluster: ClusterSpec) -> BackboneSpec:
    """Compute what is missing; returns the backbone that the features are found by.

    Raises:
        ConfigError, InstallationError: there is no pretrained backbone, or its weights cannot be had.
        IntegrityError: a shard is damaged.
    """
    backbone = describe_backbone(job.model, job.manifest.image)
    with lock_workspace(job.store):
        record = find_backbone_record(job.store, backbone) or export_stage(job, backbone, trainer)
        plan = plan_features(job.store, job.manifest, record)
        log_message(describe_features(plan))
        if plan.works:
            compute_stage(plan, cluster)
    return backbone


def export_stage(job: FeaturesJob, backbone: BackboneSpec, trainer: TrainingProcess) -> BackboneRecord:
    """Have the training process, which has Keras, write the backbone into the workspace."""
    log_message(f"features: {backbone.backbone} is written as ONNX, once for this workspace")
    return trainer.export(ExportJob(workspace=job.store.uri, backbone=backbone, folder=str(job.folder)))


def compute_stage(plan: FeaturePlan, cluster: ClusterSpec) -> None:
    """Compute what is missing, with a bar; each block that ends is kept, whatever happens to the others."""
    with open_workers(cluster, log_message) as workers, show_stage("features", plan.images) as stage:
        compute_blocks(plan, workers.run, lambda done: stage.advance(done.images))


def describe_features(plan: FeaturePlan) -> str:
    """One line of what is to be computed."""
    if not plan.images:
        return f"features: all {plan.known:,} images have theirs already"
    known = f", {plan.known:,} have theirs already" if plan.known else ""
    return f"features: {plan.images:,} image{'' if plan.images == 1 else 's'}{known}"
