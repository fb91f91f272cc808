"""Codes: what each problem means and what to do about it, for `relayd check --explain CODE` and docs/config.md.

Rule: a code is stable: scripts and CI filters name it. E- stops the tree from being used, W- is probably a mistake, N-
is worth knowing. A code that is no longer raised is taken out of the table, and its name is not used again.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    # the tree and its files
    "E-NO-RELAY-TOML": (
        "The directory has no relay.toml, so it is no config tree. Name the tree with --config DIR or RELAYD_CONFIG, "
        "or make a new one with `relayd init DIR`."
    ),
    "E-UNREADABLE": (
        "A file of the tree cannot be read: no permission, not a regular file (a pipe or a device), a loop of "
        "symbolic links, or a link that leads out of the tree. relayd reads regular files inside the tree only."
    ),
    "E-TOO-LARGE": (
        "A file is larger than 1 MiB, the tree larger than 64 MiB, or it has more than 20,000 files. These bounds "
        "keep a mistake (a dump in accounts.d) from stopping the daemon. Split the file, or take out what is not "
        "config."
    ),
    "E-EMPTY-FILE": (
        "A file has no bytes at all. That is what an interrupted save or copy leaves behind, so relayd does not take "
        "it for an empty config. Write the file again, or remove it."
    ),
    "E-ENCODING": (
        "A file is not UTF-8, which TOML demands. Save it as UTF-8; the place of the first wrong byte is given."
    ),
    "E-BOM": (
        "A file begins with a byte order mark, an invisible character that some editors add. TOML 1.0 has no place "
        'for it. Save the file as "UTF-8 without BOM".'
    ),
    "E-MERGE-MARKER": (
        "A file holds the markers of an unresolved merge conflict. Decide which side holds, remove the markers, and "
        "commit again."
    ),
    "E-SYNTAX": (
        "A file is not TOML 1.0. The place given is where reading stopped; the cause is often a little before it: a "
        "quote or bracket that is not closed, a key given twice, or a value without quotes."
    ),
    "E-TOML-1-1": (
        "A file uses syntax of TOML 1.1 (a line break or trailing comma in an inline table, the escapes \\e and \\x, a "
        "time without seconds). relayd reads TOML 1.0, so that every editor and tool agrees with it."
    ),
    "W-STRAY-FILE": (
        "A file in a *.d directory is no part of the config: relayd reads accounts.d, keys.d and tests.d, and in them"
        " files that end in .toml. Dotfiles and editor droppings are ignored silently; anything else is probably a "
        "typing error in the name, or does not belong there."
    ),
    "E-DUP-ID": (
        "Two files stand for the same account or key. The id is the name of the file without .toml, and it is unique "
        "per kind, also across sub-directories. Rename one file; counters and health follow the id."
    ),
    "W-MOUNT-FROZEN": (
        "The tree, or a file of it, is a bind mount that pins what it showed when it was made: a single file, or one"
        " version of a ConfigMap (subPath). A change of the source replaces that, so it is never seen here. Mount the"
        " directory above it. Said by the daemon when it starts, and by `relayd check --env`."
    ),
    "W-GIT-STALE-LOCK": (
        "A lock of git is older than a minute. Git holds one for seconds at most, so the command that took it has "
        "died, and the next one will refuse to work. Remove the lock when no git is running. relayd reads the tree all "
        "the same, once it has been quiet."
    ),
    # keys and values
    "E-UNKNOWN-KEY": (
        "The schema has no such key. relayd ignores nothing, because a mistyped limit would be no limit. `relayd "
        "schema --table` lists every key. In TOML a key belongs to the [table] above it: a key that should stand at "
        "the top level must come before the first table."
    ),
    "E-MISSING-KEY": "A required key is missing. The place given is the table it belongs to.",
    "E-TYPE": (
        'The value has the wrong type. TOML values have types, and relayd converts none: 3 is a number, "3" is a '
        "string."
    ),
    "E-CHOICE": "The value is none of the words that this key knows. The message lists them.",
    "E-RANGE": "A number, duration or size is outside its bounds. `relayd schema --table` shows them.",
    "E-DURATION": (
        'A duration is a string of numbers and units, largest first: "90s", "5m", "1h30m", "250ms", "7d". Units are '
        "d, h, m, s and ms."
    ),
    "E-SIZE": (
        'A size is a string such as "32MiB" or "1GB" (units B, kB, MB, GB, KiB, MiB, GiB) or an integer of bytes.'
    ),
    "E-MONEY": (
        'Money is a string of USD with at most six decimals: "12.50". A TOML number is a binary fraction and would '
        "not be exact."
    ),
    "E-TIME": (
        "A point in time is a TOML date and time with an offset from UTC, without quotes: 2026-11-22T00:00:00Z. "
        "Without an offset it would mean something else on every node."
    ),
    "E-TIMEZONE": (
        "The time zone is unknown to this machine. Use an IANA name such as Europe/Berlin or UTC; slim systems need "
        "the package tzdata."
    ),
    "E-NAME": (
        "Names of accounts, keys, groups, client rules and the realm are a-z, 0-9, _ and -, begin with a letter or "
        "digit, and have at most 63 characters: they become parts of state keys and metric labels. The name of an "
        "account or key is that of its file."
    ),
    "E-GLOB": "A glob over model ids consists of visible ASCII characters, in which * is any text and ? any character.",
    "E-REGEX": (
        "The regular expression does not compile, or is longer than 500 characters. It has the syntax of RE2, which "
        "matches in bounded time: as in Python's `re`, but without look-around ((?=...), (?<!...)), references to "
        "groups (\\1, (?P=name)), atomic groups and possessive repetitions, and with counts of at most 1000. \\d, "
        "\\w and \\s are ASCII; $ is the end of the text; the last position is \\z, not \\Z."
    ),
    "E-NETWORK": (
        "Addresses are IPv4 or IPv6 addresses or CIDR ranges. In a range the bits behind the prefix must be zero: "
        '"10.0.0.0/8", not "10.1.2.3/8".'
    ),
    "E-ADDRESS": "A listen address is host:port, [v6]:port or unix:/absolute/path.",
    "E-DUP-ADDRESS": "Two listeners have the same address. Only one of them could be opened.",
    "E-URL": "A URL begins with http:// or https:// and has a host, and neither a user part nor a query.",
    "E-CLEARTEXT": (
        "A credential would travel over plain http. That is allowed to the machine itself only (127.0.0.1, [::1], "
        "localhost); use https elsewhere."
    ),
    "E-PROXY": "A proxy is http://, https:// or socks5://, optionally user:password@, then host:port and nothing else.",
    "E-ORIGIN": "A web origin is scheme://host or scheme://host:port in lower case, as browsers send it.",
    "E-STATE-URL": (
        "The state store is sqlite:PATH (relative to the tree), redis://, rediss://, redis+sentinel:// or "
        "redis+cluster:// with host:port. A password comes from [state].password_file or RELAYD_STATE_PASSWORD."
    ),
    "E-PATH": "The path of a node-local file is absolute, because relayd's working directory is not the operator's.",
    "E-WINDOW": (
        'The window of a limit is a duration of 1s to 31d, which rolls, or "day", "week" or "month". A windows entry '
        "needs at least one of requests, tokens and cost, or it would limit nothing."
    ),
    "E-HASH": (
        "A hash is 64 hex digits. `relayd key new` prints it; it is the SHA-256 of the bytes relayd-key-v1, NUL and "
        "the key. A wrong value is not shown, because it might be the key itself."
    ),
    "E-HASHES": (
        "A key has one hash, or two while it is being rotated. None lets nobody in; three hide a forgotten one."
    ),
    "E-DUP-HASH": "The same hash stands twice, so it is not clear whose key it is. Mint a new key for one of them.",
    "E-HINT": "A hint is at most the first 17 characters of a key: enough for people, and no help to a thief.",
    "E-SCHEMA": (
        "`schema` says which version of the format the tree is written in. This relayd reads version 1; a higher one "
        "needs a newer relayd."
    ),
    # secrets
    "E-PLAINTEXT-SECRET": (
        "A secret stands in clear, in a value or a comment. Whatever was committed is known to everyone who ever "
        "reads the repository or a copy of it: replace the secret at its issuer, and seal the new one. The secret is "
        "not shown in any report."
    ),
    "E-PLAINTEXT-KEY": (
        "A whole API key of relayd stands in the tree (its checksum is right). Treat it as leaked: mint a new one. "
        "Only its hash belongs in the tree."
    ),
    "W-PROXY-PASSWORD": (
        "A proxy's password stands in the tree in clear. Prefer a proxy that knows its clients by address, or a small"
        " local proxy that adds the password."
    ),
    "E-SEAL-FORMAT": "A sealed value is damaged: it was cut or edited. Seal the secret again and copy the whole line.",
    "E-RECIPIENT": "A recipient is not a public key, is named or listed twice, or there are more than 16.",
    "E-RECIPIENT-FORMAT": (
        "A recipient's public key is damaged: its checksum is wrong, or it is a private key. Copy the whole line that "
        "`relayd secret keygen` printed; a private key that was committed must be replaced."
    ),
    "E-RECIPIENT-TWICE": "Two recipients have the same public key. Remove one of them.",
    "E-RECIPIENT-COUNT": "A value is sealed for at most 16 recipients. Retire some of them.",
    "W-RECIPIENT-MIXED": (
        "Recipients with a post-quantum key (rlpub2) stand beside others without (rlpub1). A value is as strong as its "
        "weakest recipient: give each an rlpub2 key, or none."
    ),
    "E-SEAL-CORRUPT": (
        "A sealed value's checksum is wrong: it was cut or edited. Copy the whole line, or seal the secret again."
    ),
    "E-SEAL-CONTEXT": (
        "A value was sealed for another place: another realm, account, field or origin of base_url. It opens nowhere "
        "else, so that nobody can have a credential sent elsewhere by copying a line or editing base_url. After a "
        "rename or a move seal the secret again, or run `relayd secret reseal` where an identity is at hand."
    ),
    "E-SEAL-ORIGIN": "The base_url of an account with a sealed credential has no origin that it can be bound to.",
    "E-SEAL-RECIPIENT-MISSING": (
        "`relayd secret inspect` found a value that an active recipient cannot open. Run `relayd secret reseal`."
    ),
    "W-SEAL-RECIPIENT-MISSING": (
        "A value is not sealed for one of the active recipients, so nodes that have only that identity cannot open it. "
        "Run `relayd secret reseal` before such a node depends on it."
    ),
    "W-SEAL-RECIPIENT-STALE": (
        "A value can still be opened by a recipient that is retiring, removed or unknown. Run `relayd secret reseal`. "
        "Whoever had the key can read the value in the repository's history: replace the credential itself too."
    ),
    "E-SEAL-NO-RECIPIENT": "There is nobody to seal for: [secrets] has no active recipient.",
    "E-SEAL-SIZE": "A secret is larger than 16 KiB, which no credential is.",
    "E-SEAL-NO-IDENTITY": (
        "No identity of this machine can open the value. Either the identity file is the wrong one (--identity, "
        "RELAYD_IDENTITY), or the value has to be sealed again for this node's recipient."
    ),
    "E-SEAL-TAMPERED": (
        "The value names this machine's recipient and does not open: it was altered, or put together from parts of "
        "others. Seal the secret again, and look at who changed the line."
    ),
    "E-IDENTITY-FILE": "The identity file is missing or no regular file.",
    "E-IDENTITY-ACCESS": "Somebody else could read the identity file. It must belong to relayd's user, with mode 0400.",
    "E-IDENTITY-FORMAT": "The identity file has something else than lines of rlkey1... or rlkey2..., or a damaged one.",
    "E-IDENTITY-EMPTY": "The identity file holds no identity.",
    "E-IDENTITY-IN-TREE": (
        "The identity file lies inside the config tree, where it would be committed sooner or later. Move it out; if "
        "it was committed, make a new one and reseal."
    ),
    "E-ENV-FILE": "A file that the tree names is missing on this machine, or relayd cannot read it.",
    "E-CREDENTIAL-UNUSABLE": "The secret of an account could not be sent in a header: it is empty or has line breaks.",
    "W-CREDENTIAL-SHAPE": (
        "The secret of an account does not look like a credential of its kind. Perhaps the wrong one was sealed."
    ),
    "W-SESSION-KEY": (
        "An account uses the session of a person's browser. The provider's terms do not allow software to use it, nor "
        "to serve other people with it, and it ends without notice. Use an API key."
    ),
    "W-OAUTH-PERSONAL": (
        "An account uses OAuth tokens. Those of a personal subscription are for the buyer's own use of the provider's "
        "applications, not for relaying other people's requests. Use an API key, unless your agreement says otherwise."
    ),
    "E-CREDENTIAL": (
        "An account has exactly one credential: [credential] with either sealed or file. An account of kind simulator"
        " has none."
    ),
    "W-OAUTH-CLIENT": (
        "An account of kind oauth refreshes its tokens with [oauth].client_id of relay.toml, the operator's own "
        "registration, which is empty. A long-lived access token alone works without; tokens with a refresh token end "
        "when they expire. Whether there is one cannot be seen in a sealed value."
    ),
    # sense
    "E-HEADER": (
        "A constant header has a name or value that HTTP does not allow (RFC 9110 section 5): names are letters, "
        "digits and -, values visible characters and single blanks inside."
    ),
    "E-HEADER-RESERVED": (
        "This header is not for accounts to set. Some carry the credential or the framing, which relayd writes "
        "itself; others are what a client says about itself (User-Agent, betas, x-stainless-*), which relayd never "
        "changes."
    ),
    "E-ALIAS": (
        "An alias in [models] is a model name without * and ?, leads to another model, and does not come back to "
        "itself. An alias of an alias is followed to its end. Names in an account's [model_map] have the same form."
    ),
    "E-CLIENT": "A client rule needs user_agent or headers; without a pattern it would match every program.",
    "E-ALERT": (
        "An alert goes to one place: either url, a sealed value, or url_file, the path of a node-local file that "
        "holds the URL."
    ),
    "E-DUP-NAME": "Two users or two tokens of [admin] have the same name, so the audit log could not tell them apart.",
    "E-REF": "A name refers to something that the tree does not have. The message lists what there is.",
    "W-EMPTY-GROUP": (
        "No enabled account is in this group, so the key cannot be served from it. Correct the name, or add the group"
        " to an account."
    ),
    "W-NOTHING-ALLOWED": "The list is empty, and here an empty list allows nothing. Leave the key out for the default.",
    "W-NO-ACCOUNTS": "The tree has no account, so no call can be served. Add one to accounts.d.",
    "W-NO-KEYS": "The tree has no API key, so every request is refused. Make one with `relayd key new NAME`.",
    "W-EXPIRED": "The key, or the hash, has expired: requests with it are refused. Renew it, or remove it.",
    "W-EXPIRES-EARLY": "The key expires before it was created. One of the two times is wrong.",
    "N-NO-EFFECT": "This version of relayd reads and checks the key, and does nothing with it yet.",
    "N-UNKNOWN-ID": (
        "deny.toml names a key or account that the tree does not have. That is right for one that was removed, and "
        "worth a look in case of a typing error."
    ),
    "W-ROTATION-OPEN": (
        "A key has two hashes and neither expires, so the rotation never ends and a forgotten key stays valid. Give "
        "the old hash `expires`, or remove it."
    ),
    "E-WEAK-HASH": (
        "The hash is that of a common word, or of the key's own name or owner. Whoever tries words gets in. Mint a key "
        "with `relayd key new` or `relayd key rotate`: it has 256 random bits."
    ),
    "W-DUP-HINT": "Two keys have the same hint, which is there to tell them apart. One of the two was copied.",
    "W-SHADOWED": "Something that comes first, or is wider, makes this line say nothing. Remove one of the two.",
    "W-MODEL-UNSERVED": (
        "A key may ask for a model that no enabled account of its groups serves, so that every such call is refused."
    ),
    "N-UNUSED-ACCOUNT": "No enabled key uses any group of this account, so it never serves.",
    "N-UNUSED-CLIENT": "No key names this client rule. It still names programs in the log and in reports.",
    "N-UNLIMITED-KEY": (
        "Other keys have limits; nothing limits what these may consume. [policy] require_limits makes that an error."
    ),
    # policy: what the operator forbids in [policy]
    "E-POLICY-ORIGIN": "An account's base_url has an origin that [policy] allowed_origins does not list.",
    "E-POLICY-OWNER": "[policy] require_owner: every key has an owner.",
    "E-POLICY-EXPIRY": "[policy] require_expiry: every key has an expiry.",
    "E-POLICY-LIMITS": "[policy] require_limits: every key has some limit, of its own or from [limits] in relay.toml.",
    "E-POLICY-AGE": (
        "[policy] max_key_age: every key has `created` and `expires`, no further apart than that. `check` asks no "
        "clock, so it compares the two."
    ),
    "W-KEY-OLD": "The key is older than [policy] max_key_age allows. Rotate it.",
    # scenarios
    "E-SCENARIO": (
        "A scenario of tests.d does not come out as it expects: `relayd test` says what came instead. Or it describes "
        "no call: the model is missing, the address is none, or it expects of a refusal what only an answer has."
    ),
    # changes
    "W-HELD": (
        "The daemon would hold this change until a person accepts it, because it would take much away at once (see "
        "[guard]). If it is meant: `relayd reload --accept DIGEST`."
    ),
}
