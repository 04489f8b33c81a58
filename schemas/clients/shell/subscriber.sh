#!/usr/bin/env bash
# Prints every event of the stream TOGETHER, each acknowledged once it is handled.
# Needs the NATS command line: go install github.com/nats-io/natscli/nats@v0.5.1
set -euo pipefail
export NATS_URL=${NATS_URL:-nats://127.0.0.1:4222} # nats reads NATS_USER and NATS_PASSWORD by itself
consumer=${CONSUMER:-demo-shell}

# Your work goes here. Fail to have the event again later.
handle() { # type id subject data
  printf '%s %s %s %s\n' "$@"
}

# attribute NAME prints a CloudEvents attribute of $message. The shell has no SDK: header, percent-decoded.
attribute() {
  local value
  value=$(sed -n "1,/^Data:\$/s/^  ce-$1: //p" <<<"$message")
  value=${value//\\/\\\\}
  printf '%b' "${value//%/\\x}"
}

# take STREAM handles the messages of $consumer on it until a signal ends it. nats consumer next --ack would
# acknowledge before the work. So it takes the message as it is, and answers it afterwards, on the subject that
# JetStream documents: deliveries, stream sequence and consumer sequence.
place='/ tries: ([0-9]+) / cons seq: ([0-9]+) / str seq: ([0-9]+) /'
take() {
  local message reply type id subject answer
  nats consumer info "$1" "$consumer" </dev/null >/dev/null 2>&1 ||
    nats consumer add "$1" "$consumer" --pull --ack explicit --filter "${FILTER:-together.>}" --defaults >/dev/null
  while [[ -z $stopping ]]; do
    message=$(nats consumer next "$1" "$consumer" --no-ack --timeout 2s 2> >(grep -v ': timeout' >&2)) ||
      { sleep 1 || :; continue; }
    [[ ${message%%$'\n'*} =~ $place ]] || continue # nothing new for a while
    reply="\$JS.ACK.$1.$consumer.${BASH_REMATCH[1]}.${BASH_REMATCH[3]}.${BASH_REMATCH[2]}.0.0"
    type=$(attribute type) id=$(attribute id) subject=$(attribute subject)
    if [[ -z $type || -z $id ]]; then
      answer='+TERM not a CloudEvent' # and never will be
    elif handle "$type" "$id" "${subject:--}" "${message#*$'\nData:\n\n\n'}"; then
      answer=+ACK
    else
      answer='-NAK {"delay": 5000000000}' # nanoseconds
    fi
    nats publish --quiet -- "$reply" "$answer" || : # then it comes again
  done
}

stopping=
trap 'stopping=1' INT TERM
take TOGETHER
