"""The spec of a PeftJob: what a user writes. Each field here is read by the operator or the trainer.

Docstrings become the CRD's field descriptions and `docs/api.md`; their first word is the field's JSON name.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .base import INT32_MAX, ApiModel, Rule
from .checkpoint_spec import CheckpointSpec
from .dataset_spec import COLUMNS_OF, DatasetSpec
from .forms import (
    RESOURCE,
    DnsName,
    Endpoint,
    Uri,
    endpoint_rule,
    match_rule,
    name_rule,
    uri_rules,
)
from .method_spec import PLAIN_LORA, MethodSpec
from .metrics import METRICS
from .pairs import pair_rules
from .prompt_methods import PROMPT_METHODS
from .task_spec import TaskSpec
from .training_spec import TrainingSpec

_VARIANTS = {
    "SequenceClassification": ("sequenceClassification", "problem", "SingleLabel"),
    "TokenClassification": ("tokenClassification", "scheme", "BIO"),
}
"""Task -> the field with its settings, the setting that makes another `TaskSpec.kind` of it, and this one's default."""


class BaseModelSpec(ApiModel):
    """The pretrained model, which stays frozen."""

    uri: Uri
    """uri of a folder in the Hugging Face layout (config.json, *.safetensors, files of the tokenizer or image
    processor): `hf://OWNER/NAME`, `s3://BUCKET/PREFIX`, `pvc://CLAIM/PATH`, or `file:///PATH` in the worker pods."""
    revision: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """revision is the branch, tag or commit of an `hf://` model. Default: `main`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *uri_rules("model", "uri", required=True),
        Rule(
            "!has(self.revision) || self.uri.startsWith('hf://')",
            lambda m: m.revision is None or m.uri.startswith("hf://"),
            "revision is for hf:// models only: remove it or use an hf:// uri",
            ".revision",
        ),
    )


class WorkersSpec(ApiModel):
    """The gang of pods that trains."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """nodes is the number of worker pods."""
    gpus_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """gpusPerNode is the number of accelerators each pod asks for; each gets one process. Default: 1, unless
    processesPerNode is set."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """processesPerNode trains on the CPU with so many processes per pod, instead of gpusPerNode."""
    accelerator_resource: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    """acceleratorResource is the resource that counts accelerators. Default: `nvidia.com/gpu`."""
    start_timeout_seconds: Annotated[int, Field(ge=10, le=604800)] = 600
    """startTimeoutSeconds bounds the wait for the rest of a gang of which a part is scheduled; after it the gang
    gives its nodes back, waits and tries again."""
    log_format: Literal["Text", "JSON"] = "Text"
    """logFormat of the pods' progress lines: `Text` for people, `JSON` for log collectors."""
    pod_template: dict[str, Any] | None = None
    """podTemplate is merged over the worker pods' template by strategic merge: resources, nodeSelector, tolerations,
    volumes, env (NCCL and fabric settings), image pull secrets. The container is named `trainer`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.gpusPerNode) && has(self.processesPerNode))",
            lambda w: w.gpus_per_node is None or w.processes_per_node is None,
            "gpusPerNode and processesPerNode contradict each other: gpusPerNode trains on accelerators, "
            "processesPerNode on the CPU; set one",
            ".processesPerNode",
        ),
        Rule(
            "!(has(self.acceleratorResource) && has(self.processesPerNode))",
            lambda w: w.accelerator_resource is None or w.processes_per_node is None,
            "acceleratorResource has no meaning with processesPerNode, which trains on the CPU: remove one",
            ".acceleratorResource",
        ),
        match_rule(
            "accelerator_resource", RESOURCE, "is no name of a resource: use DOMAIN/NAME, such as nvidia.com/gpu"
        ),
    )

    @property
    def accelerators(self) -> int:
        """Accelerators that each pod asks for; 0 when it trains on the CPU."""
        return 0 if self.processes_per_node is not None else self.gpus_per_node or 1

    @property
    def ranks_per_node(self) -> int:
        """Processes in each pod."""
        return self.processes_per_node or self.accelerators

    @property
    def world_size(self) -> int:
        """Processes of the whole gang."""
        return self.nodes * self.ranks_per_node


class OutputSpec(ApiModel):
    """Where the adapter goes."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=512)]  # must fit a termination message
    """uri of the folder for the adapter: `s3://BUCKET/PREFIX`, `pvc://CLAIM/PATH` or `file:///PATH`. It must be
    empty, or hold an earlier result of this same PeftJob."""
    merge: bool = False
    """merge also writes base and adapter as one model in the Hugging Face layout, into `merged/` below uri: for
    programs that know no adapters. Not for methods that add tokens or layers, which no weight of the base can hold."""

    rules: ClassVar[tuple[Rule, ...]] = uri_rules("output", "uri", required=True)


class S3StorageSpec(ApiModel):
    """How s3:// uris are reached."""

    endpoint: Endpoint | None = None
    """endpoint of the S3 API. Default: Amazon's of the region."""
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """region of the buckets. Default: `us-east-1`."""
    secret_name: DnsName | None = None
    """secretName of a Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN if
    there is one. Default: the pods' own identity (serviceAccountName)."""

    rules: ClassVar[tuple[Rule, ...]] = (endpoint_rule(), name_rule("secret_name", "Secret"))


class HuggingFaceStorageSpec(ApiModel):
    """How hf:// uris are reached."""

    endpoint: Endpoint | None = None
    """endpoint of the hub or of a mirror. Default: the hub's own."""
    secret_name: DnsName | None = None
    """secretName of a Secret with the key HF_TOKEN."""

    rules: ClassVar[tuple[Rule, ...]] = (endpoint_rule(), name_rule("secret_name", "Secret"))


class StorageSpec(ApiModel):
    """Access to models, data and output."""

    s3: S3StorageSpec | None = None
    """s3 says how `s3://` uris are reached."""
    hugging_face: HuggingFaceStorageSpec | None = None
    """huggingFace says how `hf://` uris are reached."""
    service_account_name: DnsName | None = None
    """serviceAccountName of the worker pods, for clouds that give a service account rights on buckets. Its
    Kubernetes token is never mounted."""

    rules: ClassVar[tuple[Rule, ...]] = (name_rule("service_account_name", "ServiceAccount"),)


def _listed(names: tuple[str, ...]) -> str:
    """Return a list in CEL."""
    return f"[{', '.join(repr(name) for name in names)}]"


_METHOD_RULES = (
    Rule(
        f"!(self.method.type in {_listed(PROMPT_METHODS)}) || !self.dataset.packing",
        lambda s: s.method.type not in PROMPT_METHODS or not s.dataset.packing,
        "dataset.packing needs virtual tokens before each example of a row, and PromptTuning, PTuning and PrefixTuning "
        "put them before the row: remove packing, or use another method",
        ".dataset.packing",
    ),
    Rule(
        "self.task.type != 'PreferenceOptimisation' || !has(self.method.lora) || self.method.lora.bias == 'None'",
        lambda s: s.task.type != "PreferenceOptimisation" or s.method.lora is None or s.method.lora.bias == "None",
        "method.lora.bias trains the base itself, which PreferenceOptimisation needs as it was: set bias to None",
        ".method.lora.bias",
    ),
    Rule(
        "self.method.type != 'PrefixTuning' || !self.training.gradientCheckpointing",
        lambda s: s.method.type != "PrefixTuning" or not s.training.gradient_checkpointing,
        "training.gradientCheckpointing takes no keys and values from outside of a block, as PrefixTuning gives them: "
        "turn it off, or use PromptTuning, PTuning or another method",
        ".training.gradientCheckpointing",
    ),
)
"""Methods and settings that do not go together; of tasks `pairs` tells."""


def _column_rule(part: str, tasks: Sequence[str]) -> Rule:
    """Return the rule that a column is named only for tasks that read it."""
    return Rule(
        f"!has(self.dataset.columns.{part}) || self.task.type in {list(tasks)}",
        lambda s: getattr(s.dataset.columns, part) is None or s.task.type in tasks,
        f"dataset.columns.{part} is for {', '.join(tasks)}: set task.type to {' or '.join(tasks)} or remove it",
        f".dataset.columns.{part}",
    )


def _metric_rule(kind: str, metrics: Sequence[str]) -> Rule:
    """Return the rule that what a task is judged by fits it."""
    task, _, variant = kind.partition("/")
    field, setting, plain = _VARIANTS.get(task, ("", "", ""))
    cel = f"self.task.type != '{task}'"
    if field:
        known = f"has(self.task.{field}) && self.task.{field}.{setting}"
        cel += f" || !({known} == '{variant}')" if variant else f" || ({known} != '{plain}')"
    return Rule(
        f"{cel} || !has(self.training.evaluation) || !has(self.training.evaluation.metric) || "
        f"self.training.evaluation.metric in {list(metrics)}",
        lambda s: (
            s.task.kind != kind or s.training.evaluation is None or s.training.evaluation.metric in (None, *metrics)
        ),
        f"training.evaluation.metric does not fit {task}{f' with {setting} {variant}' if variant else ''}: use "
        f"{', '.join(metrics)}",
        ".training.evaluation.metric",
    )


class PeftJobSpec(ApiModel):
    """What to train, how, on what, and where the adapter goes."""

    base_model: BaseModelSpec
    """baseModel is the pretrained model, which stays frozen."""
    task: TaskSpec = TaskSpec()
    """task is what the model learns to do. Default: CausalLM."""
    method: MethodSpec = MethodSpec()
    """method is how the frozen model is adapted. Default: LoRA of rank 16 on all linear modules."""
    dataset: DatasetSpec
    """dataset holds the examples."""
    training: TrainingSpec = TrainingSpec()
    """training says how long, how fast, how precisely."""
    workers: WorkersSpec = WorkersSpec()
    """workers is the gang of pods that trains. Default: one pod with one accelerator."""
    sharding: Literal["Auto", "Replicate", "Node", "Full"] = "Auto"
    """sharding says among which ranks the frozen base is partitioned: `Replicate` (none: each holds a copy), `Node`
    (those of a node), `Full` (all). `Auto` takes the smallest group in which the job fits into memory; a job that
    fits in none fails with reason DoesNotFit before it loads anything."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """checkpoint says when the run is saved, at the output. Default: every 5 minutes."""
    output: OutputSpec
    """output is where the adapter goes."""
    storage: StorageSpec = StorageSpec()
    """storage is the access to models, data and output."""
    suspend: bool = False
    """suspend takes the workers away while true; the job goes on from its last checkpoint when it is false again."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """maxRestarts is how many failures in a row are retried. The count starts anew once training is a hundredth of its
    steps (at least 10) beyond the last failure; lost or drained nodes do not count."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """activeDeadlineSeconds bounds the time with workers running, over all attempts; then the job fails."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    """ttlSecondsAfterFinished deletes the PeftJob so long after it finished; the adapter stays."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *pair_rules(),
        *(_column_rule(part, tasks) for part, tasks in COLUMNS_OF.items()),
        Rule(
            "self.task.type == 'CausalLM' || !self.dataset.packing",
            lambda s: s.task.type == "CausalLM" or not s.dataset.packing,
            "dataset.packing is for CausalLM, which learns each token: remove it",
            ".dataset.packing",
        ),
        Rule(
            "self.dataset.format != 'ImageFolder' || self.task.type == 'ImageClassification'",
            lambda s: s.dataset.format != "ImageFolder" or s.task.type == "ImageClassification",
            "dataset.format ImageFolder is for ImageClassification: set task.type to it, or name a JSONL, CSV or "
            "Parquet file",
            ".dataset.format",
        ),
        Rule(
            "self.task.type != 'CausalLM' || has(self.dataset.columns.prompt) == has(self.dataset.columns.completion)",
            lambda s: (
                s.task.type != "CausalLM"
                or (s.dataset.columns.prompt is None) == (s.dataset.columns.completion is None)
            ),
            "dataset.columns.prompt and completion belong together: set both or none",
            ".dataset.columns.prompt",
        ),
        *_METHOD_RULES,
        Rule(
            f"!self.output.merge || ({PLAIN_LORA.replace('self.', 'self.method.')})",
            lambda s: not s.output.merge or s.method.is_plain_lora,
            "output.merge is for LoRA with its default initialisation: remove merge, or change the method",
            ".output.merge",
        ),
        Rule(
            "!self.output.merge || self.task.type != 'Ranking'",
            lambda s: not s.output.merge or s.task.type != "Ranking",
            "output.merge writes a model for programs that know its head, and one of Ranking has none: remove merge",
            ".output.merge",
        ),
        Rule(
            "!has(self.training.evaluation) || has(self.dataset.validation) || has(self.dataset.validationFraction)",
            lambda s: s.training.evaluation is None or s.dataset.has_validation,
            "training.evaluation needs data to evaluate: set dataset.validation or dataset.validationFraction",
            ".dataset.validation",
        ),
        Rule(
            "!has(self.training.earlyStopping) || has(self.dataset.validation) || has(self.dataset.validationFraction)",
            lambda s: s.training.early_stopping is None or s.dataset.has_validation,
            "training.earlyStopping needs data to evaluate: set dataset.validation or dataset.validationFraction",
            ".dataset.validation",
        ),
        *(_metric_rule(kind, metrics) for kind, metrics in METRICS.items()),
        Rule(
            "!has(self.training.evaluation) || !has(self.training.evaluation.generate) || "
            "self.task.type in ['CausalLM', 'Seq2SeqLM']",
            lambda s: (
                s.training.evaluation is None
                or s.training.evaluation.generate is None
                or s.task.type in ("CausalLM", "Seq2SeqLM")
            ),
            "training.evaluation.generate is for CausalLM and Seq2SeqLM, which write texts: remove it",
            ".training.evaluation.generate",
        ),
        Rule(
            "!has(self.training.evaluation) || !has(self.training.evaluation.generate) || !has(self.task.causalLM) || "
            "self.task.causalLM.lossOn == 'Completions'",
            lambda s: (
                s.training.evaluation is None
                or s.training.evaluation.generate is None
                or s.task.causal_lm is None
                or s.task.causal_lm.loss_on == "Completions"
            ),
            "training.evaluation.generate has nothing to tell prompts from answers by with causalLM.lossOn AllTokens: "
            "set lossOn to Completions or remove generate",
            ".training.evaluation.generate",
        ),
        Rule(
            "!has(self.storage.s3) || [self.baseModel.uri, self.dataset.train, self.output.uri, "
            "has(self.dataset.validation) ? self.dataset.validation : '', "
            "has(self.dataset.test) ? self.dataset.test : '', "
            "has(self.method.initFrom) ? self.method.initFrom : ''].exists(u, u.contains('s3://'))",
            lambda s: s.storage.s3 is None or any("s3://" in u for u in s.uris()),
            "storage.s3 is set but no uri starts with s3://: remove it or correct the uris",
            ".storage.s3",
        ),
        Rule(
            "!has(self.storage.huggingFace) || [self.baseModel.uri, self.dataset.train, "
            "has(self.dataset.validation) ? self.dataset.validation : '', "
            "has(self.dataset.test) ? self.dataset.test : ''].exists(u, u.contains('hf://'))",
            lambda s: s.storage.hugging_face is None or any("hf://" in u for u in s.uris()),
            "storage.huggingFace is set but no uri starts with hf://: remove it or correct the uris",
            ".storage.huggingFace",
        ),
    )

    def uris(self) -> list[str]:
        """Return every uri that the job reads or writes."""
        uris = [
            self.base_model.uri,
            *(uri for split in ("train", "validation", "test") for uri in self.dataset.files(split)),
            self.method.init_from,
            self.output.uri,
        ]
        return [uri for uri in uris if uri is not None]
