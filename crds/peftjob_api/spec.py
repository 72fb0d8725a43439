"""The spec of a PeftJob: what a user writes. Each field here is read by the operator or the trainer.

Docstrings become the CRD's field descriptions and `docs/api.md`; their first word is the field's JSON name.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .base import ApiModel, Rule
from .forms import (
    RESOURCE,
    ColumnName,
    DnsName,
    Endpoint,
    Label,
    ModuleName,
    Uri,
    endpoint_rule,
    match_rule,
    name_rule,
    uri_rules,
)

_INT32_MAX = 2**31 - 1

ALL_LINEAR = "all-linear"
DEFAULT_EPOCHS = 3.0


class BaseModelSpec(ApiModel):
    """The pretrained model, which stays frozen."""

    uri: Uri
    """uri of a folder in the Hugging Face layout (config.json, *.safetensors, tokenizer files):
    `hf://OWNER/NAME`, `s3://BUCKET/PREFIX`, `pvc://CLAIM/PATH`, or `file:///PATH` inside the worker pods."""
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


class CausalLMTask(ApiModel):
    """Settings of the task CausalLM."""

    loss_on: Literal["Completions", "AllTokens"] = "Completions"
    """lossOn says which tokens are learned: `Completions` (of prompt/completion pairs, and the assistant's turns of
    a chat) or `AllTokens`. Plain text is always learned whole."""


class SequenceClassificationTask(ApiModel):
    """Settings of the task SequenceClassification."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=256)] | None = None
    """labels in the order of the classifier's outputs. Default: the sorted distinct labels of the training data."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.labels) || self.labels.all(l, self.labels.exists_one(m, m == l))",
            lambda t: t.labels is None or len(set(t.labels)) == len(t.labels),
            "labels has a label twice: remove the repetition",
            ".labels",
        ),
    )


class TaskSpec(ApiModel):
    """What the model learns to do."""

    type: Literal["CausalLM", "SequenceClassification"] = "CausalLM"
    """type of the task: `CausalLM` (continue text, answer prompts, chat) or `SequenceClassification` (one label per
    text)."""
    causal_lm: Annotated[CausalLMTask | None, Field(alias="causalLM")] = None
    """causalLM holds settings of the task `CausalLM`."""
    sequence_classification: SequenceClassificationTask | None = None
    """sequenceClassification holds settings of the task `SequenceClassification`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.causalLM) || self.type == 'CausalLM'",
            lambda t: t.causal_lm is None or t.type == "CausalLM",
            "causalLM is set but type is not CausalLM: set task.type to CausalLM or remove it",
            ".causalLM",
        ),
        Rule(
            "!has(self.sequenceClassification) || self.type == 'SequenceClassification'",
            lambda t: t.sequence_classification is None or t.type == "SequenceClassification",
            "sequenceClassification is set but type is not SequenceClassification: "
            "set task.type to SequenceClassification or remove it",
            ".sequenceClassification",
        ),
    )


class LoRAMethod(ApiModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = Wx + scale * B(Ax)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """rank of the update."""
    alpha: Annotated[float, Field(gt=0, le=65536)] = 32.0
    """alpha scales the update by alpha / rank, or by alpha / sqrt(rank) with rsLoRA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout on the update's input, while training."""
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=256)] = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    bias: Literal["None", "All", "LoRAOnly"] = "None"
    """bias says which bias vectors are trained too: `None`, `All`, or `LoRAOnly`, those of adapted modules."""
    rs_lora: Annotated[bool, Field(alias="rsLoRA")] = False
    """rsLoRA scales by alpha / sqrt(rank), which keeps high ranks stable (Kalajdzievski 2023, arXiv:2312.03732)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
            lambda m: ALL_LINEAR not in m.target_modules or len(m.target_modules) == 1,
            "targetModules has all-linear beside other names: use all-linear alone, or names only",
            ".targetModules",
        ),
    )


class MethodSpec(ApiModel):
    """How the frozen model is adapted."""

    type: Literal["LoRA"] = "LoRA"
    """type of the method."""
    lora: LoRAMethod = LoRAMethod()
    """lora holds the settings of the method `LoRA`."""


class ColumnsSpec(ApiModel):
    """Which column of the data plays which part. Unset ones are found by their default name."""

    text: ColumnName | None = None
    """text is the column of plain text. Default name: `text`."""
    label: ColumnName | None = None
    """label is the column of the label, for SequenceClassification. Default name: `label`."""
    prompt: ColumnName | None = None
    """prompt is the column of what comes before the completion. Default name: `prompt`."""
    completion: ColumnName | None = None
    """completion is the column of what is to be learned. Default name: `completion`."""
    messages: ColumnName | None = None
    """messages is the column of a chat: a list of `{role, content}`. Default name: `messages`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.prompt) == has(self.completion)",
            lambda c: (c.prompt is None) == (c.completion is None),
            "prompt and completion belong together: set both or none",
            ".prompt",
        ),
        Rule(
            "[has(self.text), has(self.prompt), has(self.messages)].filter(x, x).size() <= 1",
            lambda c: sum(x is not None for x in (c.text, c.prompt, c.messages)) <= 1,
            "columns name more than one kind of example: use one of text, prompt with completion, or messages",
        ),
    )


def _format_rule(field: str, *, optional: bool = False) -> Rule:
    """Return the rule that a file's format is known, by its ending or by the field `format`."""

    def holds(dataset: Any) -> bool:
        uri = getattr(dataset, field)
        return dataset.format != "Auto" or uri is None or uri.endswith((".jsonl", ".csv", ".parquet"))

    cel = f"self.format != 'Auto' || self.{field}.matches('[.](jsonl|csv|parquet)$')"
    return Rule(
        f"!has(self.{field}) || {cel}" if optional else cel,
        holds,
        f"{field} does not end in .jsonl, .csv or .parquet: set dataset.format to JSONL, CSV or Parquet",
        f".{field}",
    )


class DatasetSpec(ApiModel):
    """The examples."""

    train: Uri
    """train is the file of training examples: `s3://BUCKET/KEY`, `hf://datasets/OWNER/NAME[@REVISION]/FILE`,
    `pvc://CLAIM/PATH` or `file:///PATH`."""
    validation: Uri | None = None
    """validation is the file evaluated during training, by which the best step and an early stop are chosen."""
    test: Uri | None = None
    """test is the file evaluated once, at the end, with the adapter that is published."""
    format: Literal["Auto", "JSONL", "CSV", "Parquet"] = "Auto"
    """format of the files. `Auto` goes by the ending: .jsonl, .csv or .parquet."""
    columns: ColumnsSpec = ColumnsSpec()
    """columns maps the data's columns to their parts."""
    max_length: Annotated[int, Field(ge=4, le=1048576)] = 512
    """maxLength is the number of tokens after which an example is cut."""
    packing: bool = False
    """packing puts several examples into one row of maxLength tokens, each with positions and attention of its own,
    so that nothing is computed for padding. For CausalLM; the loss is that of the unpacked examples."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *uri_rules("file", "train", required=True),
        *uri_rules("file", "validation"),
        *uri_rules("file", "test"),
        _format_rule("train"),
        _format_rule("validation", optional=True),
        _format_rule("test", optional=True),
    )


class EvaluationSpec(ApiModel):
    """When and how the validation data is evaluated."""

    every_steps: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    """everySteps is the number of steps between evaluations. Default: at the end of each epoch."""
    max_samples: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    """maxSamples bounds an evaluation to the first samples of the validation data. Default: all."""
    metric: Literal["Loss", "Accuracy", "MacroF1"] | None = None
    """metric chooses the best step: `Loss` (lowest), `Accuracy` or `MacroF1` (highest). Default: `Loss` for
    CausalLM, `Accuracy` for SequenceClassification."""


class EarlyStoppingSpec(ApiModel):
    """When to stop before the last step."""

    patience: Annotated[int, Field(ge=1, le=10000)]
    """patience is the number of evaluations in a row without improvement after which training stops."""
    min_delta: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """minDelta is the change of the metric that counts as an improvement."""


class TrainingSpec(ApiModel):
    """How long, how fast, how precisely."""

    epochs: Annotated[float, Field(gt=0, le=10000)] | None = None
    """epochs is the number of passes over the training data. Default: 3, unless maxSteps is set."""
    max_steps: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    """maxSteps is the number of optimiser steps, instead of epochs."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """batchSize is the number of examples per optimiser step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """microBatchSize is the most examples (rows, with `dataset.packing`) that one device computes at once; gradients
    are accumulated up to batchSize. Default: 8, or batchSize if that is less."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-4
    """learningRate at its peak."""
    schedule: Literal["Linear", "Cosine", "Constant"] = "Linear"
    """schedule of the learning rate after the warm-up: down to zero by `Linear` or `Cosine`, or `Constant`."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """warmupRatio is the share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """weightDecay of AdamW."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """maxGradNorm clips the gradient to this norm; 0 turns clipping off."""
    seed: Annotated[int, Field(ge=0, le=_INT32_MAX)] = 42
    """seed of the initialisation, the order of the samples and dropout."""
    precision: Literal["Auto", "FP32", "BF16"] = "Auto"
    """precision of the frozen model and of the computation; what is trained is always fp32. `Auto`: BF16 on
    accelerators that have it, else FP32."""
    gradient_checkpointing: bool = False
    """gradientCheckpointing recomputes activations in the backward pass: less memory, more time."""
    log_every_steps: Annotated[int, Field(ge=1, le=_INT32_MAX)] = 10
    """logEverySteps is the number of steps between progress lines in rank 0's log."""
    evaluation: EvaluationSpec | None = None
    """evaluation during training, of dataset.validation."""
    early_stopping: EarlyStoppingSpec | None = None
    """earlyStopping ends training when evaluations no longer improve."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.epochs) && has(self.maxSteps))",
            lambda t: t.epochs is None or t.max_steps is None,
            "epochs and maxSteps contradict each other: set one",
            ".maxSteps",
        ),
        Rule(
            "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
            lambda t: t.micro_batch_size is None or t.micro_batch_size <= t.batch_size,
            "microBatchSize is larger than batchSize: batchSize counts the examples of all workers together",
            ".microBatchSize",
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
    output: OutputSpec
    """output is where the adapter goes."""
    storage: StorageSpec = StorageSpec()
    """storage is the access to models, data and output."""
    suspend: bool = False
    """suspend takes the workers away while true; the job starts again, at its first step, when it is false again."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """maxRestarts is how many failures are retried; lost or drained nodes do not count."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    """activeDeadlineSeconds bounds the time with workers running, over all attempts; then the job fails."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=_INT32_MAX)] | None = None
    """ttlSecondsAfterFinished deletes the PeftJob so long after it finished; the adapter stays."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.task.type != 'SequenceClassification' || "
            "!(has(self.dataset.columns.prompt) || has(self.dataset.columns.messages))",
            lambda s: (
                s.task.type != "SequenceClassification"
                or (s.dataset.columns.prompt is None and s.dataset.columns.messages is None)
            ),
            "dataset.columns names prompt or messages, which are for CausalLM: SequenceClassification reads text and "
            "label",
            ".dataset.columns",
        ),
        Rule(
            "self.task.type != 'CausalLM' || !has(self.dataset.columns.label)",
            lambda s: s.task.type != "CausalLM" or s.dataset.columns.label is None,
            "dataset.columns.label is for SequenceClassification: set task.type to SequenceClassification or remove it",
            ".dataset.columns.label",
        ),
        Rule(
            "self.task.type == 'CausalLM' || !self.dataset.packing",
            lambda s: s.task.type == "CausalLM" or not s.dataset.packing,
            "dataset.packing is for CausalLM, which learns each token: remove it",
            ".dataset.packing",
        ),
        Rule(
            "!has(self.training.evaluation) || has(self.dataset.validation)",
            lambda s: s.training.evaluation is None or s.dataset.validation is not None,
            "training.evaluation needs data to evaluate: set dataset.validation",
            ".dataset.validation",
        ),
        Rule(
            "!has(self.training.earlyStopping) || has(self.dataset.validation)",
            lambda s: s.training.early_stopping is None or s.dataset.validation is not None,
            "training.earlyStopping needs data to evaluate: set dataset.validation",
            ".dataset.validation",
        ),
        Rule(
            "!has(self.training.evaluation) || !has(self.training.evaluation.metric) || "
            "self.training.evaluation.metric == 'Loss' || self.task.type == 'SequenceClassification'",
            lambda s: (
                s.training.evaluation is None
                or s.training.evaluation.metric in (None, "Loss")
                or s.task.type == "SequenceClassification"
            ),
            "training.evaluation.metric Accuracy and MacroF1 are for SequenceClassification: use Loss",
            ".training.evaluation.metric",
        ),
        Rule(
            "!has(self.storage.s3) || [self.baseModel.uri, self.dataset.train, self.output.uri, "
            "has(self.dataset.validation) ? self.dataset.validation : '', "
            "has(self.dataset.test) ? self.dataset.test : ''].exists(u, u.startsWith('s3://'))",
            lambda s: s.storage.s3 is None or any(u.startswith("s3://") for u in s.uris()),
            "storage.s3 is set but no uri starts with s3://: remove it or correct the uris",
            ".storage.s3",
        ),
        Rule(
            "!has(self.storage.huggingFace) || [self.baseModel.uri, self.dataset.train, "
            "has(self.dataset.validation) ? self.dataset.validation : '', "
            "has(self.dataset.test) ? self.dataset.test : ''].exists(u, u.startsWith('hf://'))",
            lambda s: s.storage.hugging_face is None or any(u.startswith("hf://") for u in s.uris()),
            "storage.huggingFace is set but no uri starts with hf://: remove it or correct the uris",
            ".storage.huggingFace",
        ),
    )

    def uris(self) -> list[str]:
        """Return every uri that the job reads or writes."""
        uris = [self.base_model.uri, self.dataset.train, self.dataset.validation, self.dataset.test, self.output.uri]
        return [uri for uri in uris if uri is not None]
