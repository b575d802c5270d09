"""The demo's story, step by step. Each step returns what was observed, and raises if it was not what it must be."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tpm.software import SoftwareTpm, ca_certificates, provision
from ztrooted.demo.stage import Feed, Stage, UnexpectedError, isolated, processes_running, wait_until

TRUST_DOMAIN = "demo.ztrooted"
SWTPM_VENDOR = "id:00001014"
# The demo's pace: the starter policy's times, shortened so that the story fits into a minute.
PACE = {"interval_s": 1.0, "idle_interval_s": 5.0, "response_deadline_s": 2.0, "lease_s": 5.0}
BLOCKED = ("tpm2_pytss", "aiohttp", "sqlite_utils", "sqlite3")
RENEWALS = 3

# The first job leaves a descendant in its own session, as a job that wants to survive would.
DRIFTING = "setsid {survivor} & while :; do date +%s%N >> {heartbeat}; sleep 0.02; done"
HONEST = "echo governed work; sleep 1.5; echo done"

Observed = dict[str, Any]


class Story:
    """Plays the story on a stage."""

    def __init__(self, stage: Stage, pace: Mapping[str, float] = PACE) -> None:
        self.stage = stage
        self.pace = pace
        self.survivor = f"sleep 98765{os.getpid():07}"  # no other story's
        self.data = stage.data
        self.machine = stage.folder("machine")
        self.gateway = self.data / "gateway"
        self._chip: SoftwareTpm | None = None
        self.connection: list[str] = []
        self.executor = ""
        self.baseline = ""
        self.feed: Feed | None = None
        self.authorizations: dict[str, str] = {}
        self._drifted_ns = (0, 0)  # when the unlisted program was touched, and when its measurement was there

    def steps(self) -> list[tuple[str, str, Callable[[], Observed]]]:
        """Name, sentence and action of each step, in order."""
        return [
            ("provision", "Two software TPMs get EK certificates from their maker's CA", self.provision),
            ("boot", "The executor boots; its firmware and kernel measure what they load", self.boot),
            ("gateway", "The gateway makes its keys in its TPM and serves over TLS", self.start_gateway),
            ("enroll", "The executor proves its TPM, its keys and its boot", self.enroll),
            ("denied", "Without an approved baseline, a dispatch is denied", self.denied),
            ("baseline", "The operator captures and approves the baseline", self.approve),
            ("authorize", "A dispatch is authorized on a quote made for that job", self.authorize),
            ("run", "The job runs; the machine proves itself again and again", self.run),
            ("drift", "An unlisted program is measured while the job runs", self.drift),
            ("recover", "The machine reboots into its good state and enrolls anew", self.recover),
            ("second", "A second job runs to its normal end", self.second),
            ("proof", "The lineage is sealed by the TPM; both bundles verify offline", self.prove),
            ("tamper", "One flipped byte, and the proof fails", self.tamper),
        ]

    # --- set-up --------------------------------------------------------------------------------------------------
    def provision(self) -> Observed:
        """Make both TPMs, and switch the executor's on."""
        self.make_tpms()
        self.switch_on()
        return {"tpms": 2, "virtual": True}

    def make_tpms(self) -> None:
        """Make both, and keep their maker's certificates for the gateway."""
        ca = self.data / "tpm" / "ca"
        for name in ("gateway", "executor"):
            provision(self.data / "tpm" / name, ca=ca)
        (self.data / "ek-roots.pem").write_bytes(ca_certificates(ca))

    def boot(self) -> Observed:
        """Power on: event log and IMA list are written, PCRs extended in every bank."""
        self._simulate("boot", "--power-cycle")
        self._simulate("measure", *_programs())
        log = self.machine / "binary_bios_measurements"
        entries = self._ima_list().read_text().splitlines()
        return {"event_log_bytes": log.stat().st_size, "ima_entries": len(entries)}

    def start_gateway(self) -> Observed:
        """Initialise and serve."""
        made = self.make_gateway()
        self.stage.start("gateway", "gateway", "serve", str(self.gateway))
        return {"url": self.find_gateway(), **made}

    def make_gateway(self) -> Observed:
        """Its keys, its policies at the demo's pace, and a token for each role; it does not serve yet."""
        init = ["gateway", "init", str(self.gateway), "--tpm", f"swtpm:{self.data / 'tpm' / 'gateway'}"]
        init += ["--trust-domain", TRUST_DOMAIN, "--port", "0"]
        init += ["--ek-roots", str(self.data / "ek-roots.pem"), "--ek-vendor", SWTPM_VENDOR]
        created = self.stage.json(*init)
        self._set_pace()
        for role, name in (("orchestrator", "workflows"), ("operator", "olivia"), ("auditor", "audit-office")):
            whose = ["--role", role, "--name", name, "--output", str(self.data / f"{role}.token")]
            self.stage.json("gateway", "token", str(self.gateway), *whose)
        (self.data / "anchors.toml").write_text(self.stage.run("gateway", "anchors", str(self.gateway)))
        return {"virtual_tpm": created["virtual_tpm"]}

    def find_gateway(self) -> str:
        """Where it serves, once it does; everything from here on talks to it there."""
        url = self._wait_for_gateway()
        self.connection = ["--gateway", url, "--ca", str(self.gateway / "tls" / "ca.pem")]
        return url

    def enroll(self) -> Observed:
        """Enroll once to see what comes of it; then start the agent, which enrolls by itself."""
        seen = self.stage.json("executor", "enroll", *self.connection, *self._machine_options())
        if not seen["virtual"]:
            raise UnexpectedError("a software TPM was taken for hardware")
        self.executor = seen["executor"]
        self._start_agent()
        self.feed = Feed(self.stage, *self._as("orchestrator"))
        return {"executor": self.executor, "virtual": seen["virtual"], "trusted": seen["trusted"]}

    # --- the main job --------------------------------------------------------------------------------------------
    def denied(self) -> Observed:
        """No baseline, no trust."""
        refused = self.stage.json(*self._authorize("train", HONEST), expect=1)["error"]
        if refused["reason"] != "attestation.no_baseline":
            raise UnexpectedError(f"denied for {refused['reason']}, not for the missing baseline")
        self.authorizations["denied"] = refused["authorization"]
        return {"reason": refused["reason"], "detail": refused["detail"]}

    def approve(self) -> Observed:
        """Capture, then approve, by the operator."""
        captured = self.stage.json("baseline", "capture", self.executor, *self._as("operator"))
        self.baseline = captured["baseline"]
        approved = self.stage.json("baseline", "approve", self.baseline, *self._as("operator"))
        return {"pcrs": captured["pcrs"], "files": captured["files"], "approved_by": approved["approved_by"]}

    def authorize(self) -> Observed:
        """The artifact, and what it says."""
        grant = self.stage.json(*self._authorize("train", self._drifting()))
        self.authorizations["train"] = grant["authorization"]
        return {"authorization": grant["authorization"], "artifact_bytes": len(grant["artifact"])}

    def run(self) -> Observed:
        """Start the job as the orchestrator would on that machine, and watch the leases."""
        return {**self.start_job(), **self.renewals()}

    def start_job(self) -> Observed:
        """The agent verifies the artifact, proves itself once more for this start, and runs the job under a guard."""
        self._execute("train", self._drifting())
        _, started = self._feed().wait("execution.started", self.authorizations["train"], 20)
        return {"enforcement": started["body"]["enforcement"]}

    def renewals(self) -> Observed:
        """The lease is renewed, each time on a new quote; meanwhile the job and what it left behind live."""
        for _ in range(RENEWALS):
            self._feed().wait("authorization.renewed", self.authorizations["train"], 10)
        wait_until("the job's first sign of life", self.heartbeat().exists, 5)
        wait_until("the start of a descendant in its own session", lambda: processes_running(self.survivor), 5)
        return {"renewals": RENEWALS}

    def drift(self) -> Observed:
        """Measure a file nobody approved, and see the whole process tree die."""
        self.intrude()
        return {**self.revoked(), **self.killed()}

    def intrude(self) -> Observed:
        """The kernel measures a program that nobody approved."""
        intruder = self.data / "intruder"
        shutil.copy(shutil.which("true") or "/bin/true", intruder)
        with intruder.open("ab") as file:
            file.write(b"not what was approved")
        began_ns = time.time_ns()
        self._simulate("measure", str(intruder))
        self._drifted_ns = began_ns, time.time_ns()
        return {"file": intruder.name}

    def revoked(self) -> Observed:
        """The next quote shows it, and the authorization ends."""
        _, revoked = self._feed().wait("authorization.revoked", self.authorizations["train"], 20)
        if revoked["body"]["reason"] != "ima.not_allowed":
            raise UnexpectedError(f"revoked for {revoked['body']['reason']}, not for the unlisted file")
        return {"reason": revoked["body"]["reason"], "detail": revoked["body"]["detail"]}

    def killed(self) -> Observed:
        """Nothing of the job lives, and how long it had from the measurement on."""
        name, feed = self.authorizations["train"], self._feed()
        feed.wait("execution.interrupted", name, 10)
        _, closed = feed.wait("execution.closed", name, 10)
        if left := processes_running(self.survivor):
            raise UnexpectedError(f"processes of the job are alive: {left}")
        last_ns = int(self.heartbeat().read_text().split()[-1])
        time.sleep(0.3)
        if int(self.heartbeat().read_text().split()[-1]) != last_ns:
            raise UnexpectedError("the job goes on")
        drifted_ns, measured_ns = self._drifted_ns
        return {
            "exposure_ms": round((last_ns - measured_ns) / 1e6),
            "exposure_with_measuring_ms": round((last_ns - drifted_ns) / 1e6),
            "revoked_to_dead_ms": closed["body"]["kill_ms"],
        }

    def recover(self) -> Observed:
        """Reboot. The same good state gives the same PCRs, so the baseline holds."""
        self.stage.stop("agent")
        self._simulate("boot", "--power-cycle")
        self._simulate("measure", *_programs())
        self._start_agent()
        view = self._executor_view()
        if not view["trusted"]:
            raise UnexpectedError(f"after the reboot the executor is not trusted: {view['reason']} {view['detail']}")
        return {"trusted": view["trusted"], "tier": view["tier"]}

    def second(self) -> Observed:
        """An honest job, to its end."""
        grant = self.stage.json(*self._authorize("report", HONEST))
        self.authorizations["report"] = grant["authorization"]
        self._execute("report", HONEST)
        _, closed = self._feed().wait("execution.closed", grant["authorization"], 30)
        if (closed["body"]["outcome"], closed["body"]["exit_status"]) != ("exited", 0):
            raise UnexpectedError(f"the second job did not end well: {closed['body']}")
        return {"outcome": closed["body"]["outcome"], "exit_status": closed["body"]["exit_status"]}

    # --- the proof -----------------------------------------------------------------------------------------------
    def prove(self) -> Observed:
        """Export, then verify where there is no network, no TPM library, no HTTP library and no database."""
        return {job: self.prove_job(job) for job in ("train", "report")}

    def prove_job(self, job: str) -> Observed:
        """The same for one job."""
        bundle, anchors = self.bundle(job), ["--anchors", str(self.data / "anchors.toml"), "--json"]
        self.stage.run("audit", "export", self.authorizations[job], *self._as("auditor"), "-o", str(bundle))
        report = json.loads(self.stage.run("audit", "verify", str(bundle), *anchors, prefix=isolated(BLOCKED)))
        if not report["verified"] or any(check["status"] != "pass" for check in report["checks"]):
            raise UnexpectedError(f"the bundle of {job} does not verify: {report}")
        return {"bytes": bundle.stat().st_size, "checks": len(report["checks"]), **report["facts"]}

    def tamper(self) -> Observed:
        """Flip one bit in one record, and see which check notices."""
        data = bytearray(self.bundle("train").read_bytes())
        place = data.index(b'\\"max_runtime_s\\":3600') + len(b'\\"max_runtime_s\\":')
        data[place] ^= 1
        forged = self.data / "forged.json"
        forged.write_bytes(data)
        arguments = ("audit", "verify", str(forged), "--anchors", str(self.data / "anchors.toml"), "--json")
        report = json.loads(self.stage.run(*arguments, expect=1, prefix=isolated(BLOCKED)))
        failed = [check for check in report["checks"] if check["status"] == "fail"]
        if report["verified"] or [check["name"] for check in failed] != ["inclusion"]:
            raise UnexpectedError(f"the forged bundle was not refused by the inclusion check: {report['checks']}")
        return {"failed_check": failed[0]["name"], "reason": failed[0]["reason"]}

    def again(self) -> None:
        """Forget the first job, so that it can be played once more."""
        self.stage.stop("job-train")
        for left in (self.data / "train.artifact", self.bundle("train"), self.data / "forged.json", self.heartbeat()):
            left.unlink(missing_ok=True)
        self.authorizations.pop("train", None)

    def switch_on(self) -> None:
        """Start the executor's TPM, which was made before by another process."""
        self._chip = SoftwareTpm(self.data / "tpm" / "executor")

    @property
    def chip(self) -> SoftwareTpm:
        """The executor's TPM, once it is there."""
        if self._chip is None:
            raise UnexpectedError("the executor has no TPM yet")
        return self._chip

    def close(self) -> None:
        """Take the executor's TPM away."""
        if self._chip is not None:
            self._chip.close()

    def bundle(self, job: str) -> Path:
        """Where the bundle of a job goes."""
        return self.data / f"bundle-{job}.json"

    # --- how things are done -------------------------------------------------------------------------------------
    def _simulate(self, *arguments: str) -> None:
        prefix = (sys.executable, "-m", "tpm.boot_simulator", "--tpm", self.chip.address, "--dir", str(self.machine))
        self.stage.run(*arguments, prefix=prefix)

    def _set_pace(self) -> None:
        policy = self.gateway / "policy" / "appraisal.toml"
        text = policy.read_text()
        for name, seconds in self.pace.items():
            text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {seconds}", text)
            if replaced != 1:
                raise UnexpectedError(f"the starter policy has no {name}")
        policy.write_text(text)

    def _wait_for_gateway(self) -> str:
        address = self.gateway / "address"

        def ready() -> str:
            self.stage.alive("gateway")
            return address.read_text().strip() if address.exists() else ""

        return str(wait_until("the gateway's start", ready, 20))

    def _machine_options(self) -> list[str]:
        log = self.machine / "binary_bios_measurements"
        return ["--tpm", self.chip.address, "--event-log", str(log), "--ima", str(self._ima_list())]

    def _ima_list(self) -> Path:
        return self.machine / "ascii_runtime_measurements"

    def _start_agent(self) -> None:
        run = ["executor", "run", *self.connection, *self._machine_options(), "--socket", str(self._socket())]
        self.stage.start("agent", *run)

        def connected() -> bool:
            self.stage.alive("agent")
            return bool(self._executor_view()["connected"])

        wait_until("the executor's connection", connected, 20)

    def trusted(self) -> bool:
        """Whether the gateway trusts the executor now."""
        return bool(self._executor_view().get("trusted"))

    def _executor_view(self) -> Observed:
        views: list[Observed] = self.stage.json("executors", *self._as("operator"))
        return next((view for view in views if view["executor"] == self.executor), {"connected": False})

    def _as(self, role: str) -> list[str]:
        return [*self.connection, "--token-file", str(self.data / f"{role}.token")]

    def _authorize(self, step: str, script: str) -> list[str]:
        options = ["--executor", self.executor, *self._as("orchestrator"), "-o", str(self.data / f"{step}.artifact")]
        job = ["--workflow", "demo", "--run", "1", "--step", step]
        return ["authorize", *options, *job, "--", "/bin/sh", "-c", script]

    def _execute(self, step: str, script: str) -> None:
        options = ["--artifact", str(self.data / f"{step}.artifact"), "--socket", str(self._socket())]
        job = ["--workflow", "demo", "--run", "1", "--step", step]
        self.stage.start(f"job-{step}", "exec", *options, *job, "--", "/bin/sh", "-c", script)

    def _drifting(self) -> str:
        return DRIFTING.format(survivor=self.survivor, heartbeat=self.heartbeat())

    def heartbeat(self) -> Path:
        """The file into which the first job writes that it lives: nanoseconds since 1970, a line each time."""
        return self.data / "heartbeat"

    def _socket(self) -> Path:
        return self.data / "agent.sock"

    def _feed(self) -> Feed:
        if self.feed is None:
            raise UnexpectedError("nobody follows the event feed")
        return self.feed


def _programs() -> list[str]:
    """Real files of this machine that the demo's jobs use: what IMA would measure when they run."""
    found = [shutil.which(name) for name in ("sh", "sleep", "date", "setsid", "unshare")]
    return [str(Path(path).resolve()) for path in found if path]
