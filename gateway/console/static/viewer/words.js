// What the numbered checks mean, in words; the numbers and names are those of docs/bundle-format.md.

/** [what must hold, what it means when it does not]. */
export const MEANINGS = {
  bundle: ["The file is a bundle, and every part has the digest it is filed under.", "The file was damaged or altered, or it is something else."],
  checkpoint: [
    "Its checkpoint is of the lineage that your anchors name, signed by that lineage's key and by as many witnesses as your anchors demand.",
    "The bundle is of another gateway, or somebody made a checkpoint of their own.",
  ],
  seal: ["The gateway's TPM quoted the anchored state over that checkpoint.", "The gateway was in another state than you were told, or this is another machine."],
  log_key: ["The key of the lineage lives in that TPM, and signs in that state only.", "The lineage could have been signed outside of the TPM."],
  inclusion: ["Every record is in the tree that the checkpoint is about.", "A record was altered, added, or taken from elsewhere."],
  story: ["The records are one unbroken, legal course from intent to end.", "A record is missing, or something happened that must not follow."],
  executor: ["One enrollment stands behind all rounds; its TPM and keys are what they should be.", "The machine is not the one that was enrolled."],
  policies: ["The policies and baselines in use had been activated and approved before.", "It was judged by rules that nobody had put in force."],
  quotes: ["Each quote was made for this purpose, this job and this authorization, and no nonce was used twice.", "Evidence was replayed, or made for something else."],
  appraisals: ["Each quote and log, judged again from its bytes, gives the recorded verdict.", "A recorded verdict does not follow from the evidence."],
  parents: ["A child was given no more than its parent had, and only while that was live.", "It ran under a parent that had not granted it."],
  decisions: ["The dispatch policy, asked again, decides the same, and that was followed.", "Somebody decided otherwise than the policy."],
  artifacts: ["One artifact for each grant, signed by an introduced key, saying what was recorded, in one chain.", "An artifact was forged, or says more than was decided."],
  continuity: ["No lease was renewed without a good quote, and no gap is longer than a lease.", "It ran on without proof."],
  outcome: ["How it ended is recorded; if trust failed, the job was stopped.", "It is not known how it ended, or it was not stopped."],
};

export const STATUS = {
  pass: { shape: "✓", text: "pass" },
  fail: { shape: "✕", text: "fail" },
  not_checked: { shape: "○", text: "not checked" },
};

/** What is said of a record's type where people read. */
export const RECORDS = {
  "dispatch.requested": "asked for",
  "policy.evaluated": "policy asked",
  "authorization.issued": "authorized",
  "authorization.denied": "denied",
  "authorization.activated": "activated",
  "authorization.delegated": "child authorized",
  "authorization.renewed": "lease renewed",
  "authorization.revoked": "revoked",
  "attestation.passed": "proof passed",
  "attestation.failed": "proof failed",
  "attestation.overdue": "proof did not come",
  "execution.started": "job started",
  "execution.interrupted": "job stopped",
  "execution.closed": "closed",
};

/** TCG PC Client Platform Firmware Profile 1.06 §10.4.1. */
export const EVENT_TYPES = {
  0x0: "EV_PREBOOT_CERT", 0x1: "EV_POST_CODE", 0x2: "EV_UNUSED", 0x3: "EV_NO_ACTION", 0x4: "EV_SEPARATOR", 0x5: "EV_ACTION",
  0x6: "EV_EVENT_TAG", 0x7: "EV_S_CRTM_CONTENTS", 0x8: "EV_S_CRTM_VERSION", 0x9: "EV_CPU_MICROCODE", 0xa: "EV_PLATFORM_CONFIG_FLAGS",
  0xb: "EV_TABLE_OF_DEVICES", 0xc: "EV_COMPACT_HASH", 0xd: "EV_IPL", 0xe: "EV_IPL_PARTITION_DATA", 0xf: "EV_NONHOST_CODE",
  0x10: "EV_NONHOST_CONFIG", 0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x13: "EV_POST_CODE2",
  0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG", 0x80000002: "EV_EFI_VARIABLE_BOOT", 0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
  0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER", 0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER", 0x80000006: "EV_EFI_GPT_EVENT",
  0x80000007: "EV_EFI_ACTION", 0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES",
  0x8000000a: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", 0x8000000b: "EV_EFI_HANDOFF_TABLES2", 0x8000000c: "EV_EFI_VARIABLE_BOOT2",
  0x8000000d: "EV_EFI_GPT_EVENT2", 0x80000010: "EV_EFI_HCRTM_EVENT", 0x800000e0: "EV_EFI_VARIABLE_AUTHORITY",
  0x800000e1: "EV_EFI_SPDM_FIRMWARE_BLOB", 0x800000e2: "EV_EFI_SPDM_FIRMWARE_CONFIG", 0x800000e3: "EV_EFI_SPDM_DEVICE_POLICY",
  0x800000e4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
};

/** Milliseconds as people say them. */
export function duration(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000), parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return parts[0] > 0 ? `${parts[0]} h ${parts[1]} min` : `${parts[1]} min ${parts[2]} s`;
}

/** An instant in UTC, to the millisecond. */
export function instant(ms) {
  const time = new Date(ms);
  return Number.isNaN(time.getTime()) ? String(ms) : time.toISOString().replace("T", " ").replace("Z", " UTC");
}

/** A number of bytes. */
export function size(bytes) {
  return bytes < 10_000 ? `${bytes} bytes` : bytes < 10_000_000 ? `${Math.round(bytes / 1000)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
