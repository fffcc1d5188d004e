#!/usr/bin/env bash
# A release, end to end: two adapters and their base go to the Hub, are pulled at locked commits,
# combined, merged and published with a card, and the published files are compared with those made here.
#
#     docs/how-to/release.sh OWNER VERSION     in a checkout, with HF_TOKEN
set -euo pipefail
owner=${1:?usage: release.sh OWNER VERSION}
version=${2:?usage: release.sh OWNER VERSION}
lock=$PWD/loratools.lock
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- once: what a release is made of ---------------------------------------------------------

mkdir "$work/base" "$work/r4" "$work/r8"
cp fixtures/stories260k/{config,generation_config,tokenizer,tokenizer_config}.json \
    fixtures/stories260k/model.safetensors "$work/base"
cp fixtures/adapters/combine-r4/adapter_* "$work/r4"
cp fixtures/adapters/combine-r8/adapter_* "$work/r8"

loratools push "$work/base" "$owner/stories260k" --create
loratools push "$work/r4" "$owner/tales-r4" --create --base "$owner/stories260k"
loratools push "$work/r8" "$owner/tales-r8" --create --base "$owner/stories260k"

# --- every release: pull what is locked ------------------------------------------------------

pinned() { # pinned OWNER/NAME: pulled into the cache, and its name with the locked commit
    local pulled
    pulled=$(loratools pull "$1" --lock "$lock" --json) || return
    python3 -c 'import json, sys; print(json.loads(sys.argv[1])["name"])' "$pulled"
}
base=$(pinned "$owner/stories260k")
first=$(pinned "$owner/tales-r4")
second=$(pinned "$owner/tales-r8")

# --- make the model: offline, so that nothing else gets in -----------------------------------

cd "$work"
loratools combine "$first" "$second" --rank 8 -o both --offline --json > combine.json
loratools merge "$base" both -o merged --offline --json > merge.json

# --- publish it, and look at what is there ---------------------------------------------------

loratools push merged "$owner/tales" --create --license mit \
    --report combine.json --report merge.json --tag "$version"

loratools pull "$owner/tales@$version" -o published
(cd merged && find . -type f -exec sha256sum {} +) > sums
(cd published && sha256sum --check --strict --quiet ../sums)
echo "released: hf://$owner/tales@$version is what was made here"
