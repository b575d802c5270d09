"""The gateway's configuration: one TOML file in its data folder, then ``ZTROOTED_*`` variables, then flags; strict.

Relative paths are relative to the data folder. No setting relaxes enforcement.
"""

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from gateway import provider_config
from gateway.provider_config import ProviderConfig
from gateway.webhook_config import WebhookConfig, unique_names
from gateway.witness_config import WitnessConfig, distinct
from tpm.endorsement_san import normalise_vendor_id
from ztrooted import names
from ztrooted.errors import EnvironmentProblem
from ztrooted.policies import Policies
from ztrooted.reasons import GateReason
from ztrooted.tracing import collector_address
from ztrooted.validation import explain_validation

FORMAT = "ztrooted-gateway/1"
FILE = "gateway.toml"
PREFIX = "ZTROOTED_"
MISSPELT = 0.9  # of 1, how alike two names are of which one is probably meant to be the other

TpmAddress = Annotated[str, StringConstraints(pattern=r"^(device|swtpm|socket):/.+$")]
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:._%-]{1,253}$")]
Collector = Annotated[str, AfterValidator(collector_address)]
VendorId = Annotated[str, AfterValidator(normalise_vendor_id)]


class GatewayConfig(BaseSettings):
    """Every setting, with its default and its meaning."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    format: Literal["ztrooted-gateway/1"]
    data: Path = Field(description="The data folder; set by the command line, not by the file.")
    listen_host: Host = Field("127.0.0.1", description="Address to listen on.")
    listen_port: int = Field(8443, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    trust_domain: Domain = Field(description="SPIFFE trust domain of executor identities.")
    tpm: TpmAddress = Field(
        description="The gateway's own TPM: device:/dev/tpmrm0 on a real machine; swtpm:/abs/state is a managed software"
        " TPM and shows as virtual everywhere."
    )
    ek_roots: Path = Field(
        Path("ek-roots"), description="Folder of PEM files: the manufacturers' roots that EK certificates must lead to."
    )
    ek_vendors: list[VendorId] = Field(
        [],
        description="TCG vendor ids whose TPMs are accepted, such as id:494E5443. Empty: every registered maker of"
        " hardware. A software TPM (id:00001014 is swtpm's) must be listed, and its executors are virtual.",
    )
    appraisal_policy: Path = Field(Path("policy/appraisal.toml"), description="What evidence must show.")
    dispatch_policy: Path = Field(Path("policy/dispatch.cedar"), description="Who may run what where.")
    entities: Path = Field(Path("policy/entities.toml"), description="Groups of orchestrators and pools of executors.")
    event_log: Path | None = Field(
        None, description="The firmware's event log of the gateway's own machine; left out, the kernel's for a device:."
    )
    session_life_s: int = Field(
        3600, ge=60, le=86400, description="Life of an executor's session certificate; renewed only by a good quote."
    )
    issuing_key_life_s: int = Field(
        3600, ge=60, le=86400, description="How long one issuing key signs artifacts before the next is introduced."
    )
    log_level: Literal["info", "debug"] = Field("info", description="How much is logged; --verbose is debug.")
    log_format: Literal["json", "console"] = Field(
        "json", description="How: JSON objects for programs, or lines for people. Both are one line an event."
    )
    otlp_endpoint: Collector | None = Field(
        None,
        description="Send traces to this OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318. Needs"
        " the extra 'otel'.",
    )
    checkpoint_interval_s: float = Field(60, gt=0, le=3600, description="How often new records are sealed by the TPM.")
    anchor_interval_s: float = Field(
        600,
        gt=0,
        le=86400,
        description="How often a checkpoint is bound to the TPM's counter, which wears the TPM's memory a little.",
    )

    connections: int = Field(
        20_000, ge=16, le=1_000_000, description="How many connections are open at once; one more is closed at once."
    )
    connections_per_address: int = Field(
        2_000,
        ge=16,
        le=1_000_000,
        description="The same for one address, or one /64 of IPv6. An executor needs one; those behind one NAT share it.",
    )
    connections_per_address_s: float = Field(
        100,
        ge=1,
        le=100_000,
        description="How many new connections one address makes in a second for long; at once it may make as many as it"
        " may have.",
    )
    unproved_requests_per_s: float = Field(
        10,
        ge=1,
        le=100_000,
        description="How many requests without a valid credential are answered for one address in a second for long."
        " Each 64 KiB of a body counts as one more; an enrollment that succeeds as none.",
    )
    unproved_requests_at_once: int = Field(
        256, ge=256, le=1_000_000, description="The same at once; at least what the largest enrollment costs."
    )
    requests_per_s: float = Field(
        2_000,
        ge=1,
        le=1_000_000,
        description="How many requests of one orchestrator, auditor or operator are answered in a second for long, and"
        " twice as many at once.",
    )
    console_public: bool = Field(
        False,
        description="Let anybody read the console without signing in: who is trusted and what is decided, without names of"
        " people and of their work, labels, policies, reference values and evidence. Nothing can be changed that way.",
    )
    client_ca: Path | None = Field(
        None,
        description="PEM file of the CAs that issue client certificates to orchestrators, auditors and operators, named"
        " spiffe://DOMAIN/ROLE/NAME. Left out, they show tokens.",
    )
    identity_providers: Annotated[list[ProviderConfig], AfterValidator(provider_config.distinct)] = Field(
        [], description="Whose tokens (OpenID Connect) are believed, each a table [[identity_providers]]."
    )
    ed25519_signatures: bool = Field(
        False,
        description="Sign checkpoints by an Ed25519 key that is not in the TPM, too, for tools that know no other.",
    )
    webhooks: Annotated[list[WebhookConfig], AfterValidator(unique_names)] = Field(
        [], description="Receivers of events that can't hold a stream, each a table [[webhooks]]."
    )
    witnesses: Annotated[list[WitnessConfig], AfterValidator(distinct)] = Field(
        [], description="Who is asked to cosign each checkpoint (C2SP tlog-witness), each a table [[witnesses]]."
    )
    witness_quorum: int = Field(
        0,
        ge=0,
        description="How many of them must have cosigned a checkpoint before it is published; without them nothing more"
        " is issued after a while. 0 publishes without.",
    )

    @model_validator(mode="after")
    def _quorum_can_be_had(self) -> "GatewayConfig":
        if self.witness_quorum > len(self.witnesses):
            raise ValueError(f"witness_quorum is {self.witness_quorum}, of {len(self.witnesses)} witnesses")
        return self

    @property
    def origin(self) -> str:
        """The name of the lineage: the first line of its checkpoints."""
        return names.lineage(self.trust_domain)

    @property
    def issuer(self) -> str:
        """``iss`` of every artifact."""
        return names.gateway(self.trust_domain)

    @property
    def audience(self) -> str:
        """``aud`` of every artifact."""
        return names.executors(self.trust_domain)

    def path(self, relative: Path | str) -> Path:
        """A path of the configuration as an absolute one."""
        return self.data / relative

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, which wins over the file."""
        data: Any = init_settings()["data"]
        file = TomlConfigSettingsSource(settings_cls, toml_file=data / FILE)
        return init_settings, env_settings, file


def load_config(data: Path, **flags: Any) -> GatewayConfig:
    """The configuration of the data folder ``data``. EnvironmentProblem with file, key and remedy."""
    data = data.absolute()
    file = data / FILE
    if not file.is_file():
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"{data} is not the data folder of a gateway: it has no {FILE}",
            f"create one with 'ztrooted gateway init {data}'",
        )
    _refuse_misspelt()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        config = GatewayConfig(data=data, **given)
    except SettingsError as error:  # a list in a variable is JSON
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"a variable {PREFIX}… can't be read: {error}", "write lists as JSON"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"{file} is not TOML: {error}", "correct the file"
        ) from error
    except ValidationError as error:
        unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
        raise EnvironmentProblem(
            GateReason.CONFIG_UNKNOWN_KEY if unknown else GateReason.CONFIG_INVALID,
            f"{_blamed(error, given, file)}: {explain_validation(error)}",
            "correct or remove the key; a misspelt setting is never ignored",
        ) from error
    return config


def _refuse_misspelt() -> None:
    """A variable that is nearly one of ours is not left alone. Others of that beginning are other programs' business."""
    known = {PREFIX + name.upper() for name in GatewayConfig.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            meant = difflib.get_close_matches(name.upper(), known, 1, MISSPELT)
            if meant:
                raise EnvironmentProblem(
                    GateReason.CONFIG_UNKNOWN_KEY,
                    f"the variable {name} is no setting; {meant[0]} is one",
                    "correct or remove the variable; a misspelt setting is never ignored",
                )


def _blamed(error: ValidationError, flags: Mapping[str, Any], file: Path) -> str:
    """Where the first value that is wrong came from."""
    location = error.errors()[0]["loc"]
    name = str(location[0]) if location else ""
    if name in flags:
        return "the command line"
    variable = next((one for one in os.environ if one.upper() == PREFIX + name.upper()), None)
    return str(file) if variable is None else f"the variable {variable}"


def policy_paths(config: GatewayConfig) -> dict[str, Path]:
    """Where the documents lie, by role."""
    return {
        "appraisal": config.path(config.appraisal_policy),
        "dispatch": config.path(config.dispatch_policy),
        "entities": config.path(config.entities),
    }


def read_policies(config: GatewayConfig) -> Policies:
    """What is to be in force. EnvironmentProblem for a missing file, PolicyError for an unusable one."""
    paths = policy_paths(config)
    what = {"appraisal": "appraisal policy", "dispatch": "dispatch policy", "entities": "list of entities"}
    documents = {role: read_file(path, what[role]) for role, path in paths.items()}
    return Policies.load(documents, {role: str(path) for role, path in paths.items()})


def read_file(path: Path, what: str, *, secret: bool = False) -> bytes:
    """The bytes of a file we can't do without. A secret one must not be readable by group or others."""
    try:
        mode = path.stat().st_mode
        if secret and stat.S_ISREG(mode) and mode & 0o077:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the {what} {path} can be read by others than its owner",
                f"if nobody has read it: chmod 600 {path}; otherwise replace it",
            )
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE if secret else GateReason.CONFIG_MISSING,
            f"the {what} {path} can't be read: {error.strerror}",
            "restore the file from a backup, or run 'ztrooted gateway init' for a new gateway",
        ) from error
