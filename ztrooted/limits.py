"""Every maximum in one place, each with its reason. Sizes in bytes unless the name says otherwise."""

# --- what arrives over the network -------------------------------------------------------------------------------
BODY = 1 << 20  # a request without evidence: a job description is a few kilobytes
EVIDENCE_BODY = 12 << 20  # evidence is base64 in JSON: 8 MiB of IMA list is 11 MiB on the wire
REQUEST_LINE = 8190  # method, path and query: our longest are under a kilobyte, and many proxies stop here too
HEADER_FIELD = 8190  # one header; a token of an identity provider is two kilobytes
HEADERS = 64  # fields of one request; browsers send twenty
HANDSHAKE_S = 5  # for TLS: two round trips, of which the longest on earth takes half a second
REQUEST_S = 15  # for a whole body to arrive: 12 MiB at 1 MB/s; who sends a byte a minute holds a connection for ever
HEADERS_S = 10  # for the first request on a connection to begin and be whole, as far as its body
IDLE_S = 75  # between two requests on one connection; what browsers and proxies expect
LINGER_S = 2  # what was refused is read on for so long, so that the refusal arrives and not a broken connection
PIECE = 64 << 10  # of a body: who is not known pays for each, and what is larger is read beside the event loop
JSON_VALUES = 8192  # commas and colons of one request; the largest job has 1,500
EXECUTOR_REQUESTS_PER_S = 10  # an executor asks three times for each connection
EXECUTOR_REQUESTS_AT_ONCE = 100
CHANNEL_MESSAGES_PER_S = 200  # of one executor, each 64 KiB one more; beyond, it is read from more slowly
CHANNEL_MESSAGES_AT_ONCE = 512  # two of the largest, and some
JSON_DEPTH = 32  # our deepest message nests seven levels
STRING = 4096  # any string no other rule bounds
ARGV_ITEMS = 256  # a command line longer than this belongs into a script that the job names by digest
FILES_ITEMS = 256  # files that a job names by digest; more belong into an image
DELEGATION_DEPTH = 8  # levels below one authorization; workflows nest three or four
DELEGATION_CHILDREN = 256  # of one authorization in its whole life; each is a record in its story
DELEGATION_NAMES = 256  # steps or executors that a delegation lists
LIVE_DESCENDANTS = 1024  # they are revoked in one transaction, for which everybody else waits
LABELS = 32  # of one executor
JOB_USER = (1 << 32) - 2  # the kernel's greatest user and group number; the one above means "no change"
JOB_MEMORY = 1 << 50  # no machine has as much; a number that any reader of JSON can hold
JOB_PIDS = 1 << 22  # PID_MAX_LIMIT of Linux
JOB_CPU = 100 * 8192  # percent of one processor; NR_CPUS of Linux
MAX_RUNTIME_S = 7 * 86400  # a job that runs longer asks again: what was decided a week ago is not believed

POLICY = 1 << 20  # one document; 200 rules with their comments are 50 KB
POLICY_BODY = 4 << 20  # three documents as JSON text

# --- evidence ----------------------------------------------------------------------------------------------------
ATTEST = 1024  # TPMS_ATTEST with every buffer full is 700
SIGNATURE = 1024  # RSA-4096 is 518
PUBLIC_AREA = 4096  # TPM2B_PUBLIC of an RSA-4096 key is 560
EK_CERTIFICATE = 16 << 10  # NV indices of most TPMs end at 2 KiB
EK_CHAIN = 8  # certificates above the leaf
EVENT_LOG = 1 << 20  # the largest firmware log we know is 73 KB
IMA_LIST = 8 << 20  # about 80,000 entries in one round
NONCE = 32  # 256 random bits: never repeated, never guessed

# --- time --------------------------------------------------------------------------------------------------------
CHALLENGE_LIFE_S = 60  # the longest a nonce may wait for its quote
ENROLLMENT_LIFE_S = 60  # opening a credential takes a slow chip two seconds
ARTIFACT_LIFE_S = 600  # the longest lease a policy may ask for
CLOCK_LEEWAY_S = 5  # between gateway and executor, in both directions

# --- memory ------------------------------------------------------------------------------------------------------
PENDING_ENROLLMENTS = 256  # each holds one public area, a certificate chain and a secret
PENDING_OF_ADDRESS = 64  # of them, so that it takes several addresses to keep everybody else out
REFUSALS_PER_S = 0.1  # refused enrollments in the lineage, of one address or one machine, for long
REFUSALS_AT_ONCE = 20
FEED_BATCH = 500  # records read at once for one subscriber
FEED_RECENT = 1000  # events kept ready for subscribers that are up to date; who is behind reads the database
REPLAYED = 10_000  # recorded decisions in one trial of policies; each costs about a millisecond
DIFFERENCES = 10_000  # shown between two baselines; whoever has more has another system
REPLIES = 20_000  # answers kept for one caller under its Idempotency-Keys: five a second for as long as they are kept
REPLY_LIFE_S = 3600  # who asks again does so within minutes; after an hour the same key is a new request
PAGE = 200  # rows of one list answer
BUNDLE = 64 << 20  # a day of proofs every ten seconds is about 40 MB
RECORD = 0xFFFF  # what the length of an entry can say in C2SP tlog-tiles, so that everybody can mirror the log
