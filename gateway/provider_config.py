"""What the configuration says of an identity provider: whose tokens are believed, and what they make of their bearer."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_TEXT = 2048
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
# Asymmetric ones only: with a shared secret whoever can verify can also sign.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Grant(BaseModel):
    """One ``[[identity_providers.grants]]``: who has all of these claims has this role."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["orchestrator", "auditor", "operator"] = Field(description="What its bearer may be.")
    claims: dict[Text, Text] = Field(
        min_length=1, description="What the token has to say, all of it, as exactly these texts or in lists with them."
    )


class ProviderConfig(BaseModel):
    """One ``[[identity_providers]]`` of the gateway's configuration."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = Field(
        description="What it is called: its bearers are NAME:SUBJECT."
    )
    issuer: Text = Field(description="The `iss` of its tokens, exactly.")
    audience: Text = Field(description="The `aud` that says a token is for this gateway.")
    jwks_file: str | None = Field(None, description="File of its keys, a JWK Set, read again every five minutes.")
    jwks_url: Text | None = Field(None, description="Or where they are fetched from, by https.")
    jwks_ca: str | None = Field(
        None,
        description="PEM file of the CA of that address, and of the issuer's where people sign in; left out, the system's.",
    )
    algorithms: list[Algorithm] = Field(
        ["RS256", "ES256"], min_length=1, description="With which it signs; none with a shared secret."
    )
    max_life_s: int = Field(86400, ge=60, le=604800, description="How long its tokens may be valid.")
    client_id: Text | None = Field(
        None, description="What this gateway is called there, where people sign in to the console by it."
    )
    client_secret_file: str | None = Field(
        None, description="File of the secret of that client, for its owner alone; left out, the client has none."
    )
    redirect_uri: Text | None = Field(
        None, description="Where it sends people back to, exactly: `https://HOST/console/login/NAME/callback`."
    )
    scope: Text = Field("openid", description="What it is asked for, with spaces between; `openid` is among it.")
    grants: list[Grant] = Field(min_length=1, description="Who may be what, each a table below it.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("an identity provider's keys come from 'jwks_file' or from 'jwks_url'")
        if self.jwks_url is not None:
            parts = urlsplit(self.jwks_url)
            if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
                raise ValueError("'jwks_url' begins with https:// and holds no password: these keys decide who is who")
        elif self.jwks_ca is not None and self.client_id is None:
            raise ValueError("'jwks_ca' is for a 'jwks_url'")
        return self

    @model_validator(mode="after")
    def _usable_client(self) -> Self:
        if (self.client_id is None) != (self.redirect_uri is None):
            raise ValueError("'client_id' and 'redirect_uri' are given together")
        if self.client_id is None or self.redirect_uri is None:
            if self.client_secret_file is not None:
                raise ValueError("'client_secret_file' is for a 'client_id'")
            return self
        parts, issuer = urlsplit(self.redirect_uri), urlsplit(self.issuer)
        wanted = f"https://{parts.netloc}/console/login/{self.name}/callback"
        if self.redirect_uri != wanted or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"'redirect_uri' is https://HOST/console/login/{self.name}/callback")
        if issuer.scheme != "https" or not issuer.hostname or "@" in issuer.netloc or issuer.query or issuer.fragment:
            raise ValueError("with a 'client_id' the 'issuer' is an https:// address: it is asked what it is")
        if "openid" not in self.scope.split(" "):
            raise ValueError("'scope' has to hold openid")
        return self


def distinct(providers: list[ProviderConfig]) -> list[ProviderConfig]:
    """ValueError where two have one name or one issuer: which of them a token is of would be anybody's guess."""
    for what in ("name", "issuer"):
        values = [getattr(one, what) for one in providers]
        if len(set(values)) != len(values):
            raise ValueError(f"two identity providers have the same {what}")
    return providers
