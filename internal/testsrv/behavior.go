package testsrv

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// behave obeys the rpc-behavior metadata of the public gRPC test servers
// (grpc/doc/xds-test-descriptions.md), before the script. Its words are
// executed in order, however they are spread over commas and repeated values:
//
//	sleep-N                     wait N seconds
//	keep-open                   never answer
//	error-code-N                fail with status code N
//	succeed-on-retry-attempt-N  answer well if grpc-previous-rpc-attempts is N
//	hostname=X word             obey the word if the server's hostname is X
//
// If no word decides, the script goes on. A word that is none of these fails
// the attempt with INVALID_ARGUMENT, since ignoring a misspelt one would let a
// test pass that tests nothing.
func (a *attempt) behave() (done bool, err error) {
	for _, value := range a.arrival.Metadata.Get("rpc-behavior") {
		for word := range strings.SplitSeq(value, ",") {
			op := a.behavior(strings.TrimSpace(word))
			if done, err := op(a); done || err != nil {
				return true, err
			}
		}
	}
	return false, nil
}

// behavior is what one word makes this attempt do.
func (a *attempt) behavior(word string) Step {
	nothing := Do()
	invalid := Fail(codes.InvalidArgument, "testsrv: rpc-behavior: "+strconv.Quote(word))

	if rest, ok := strings.CutPrefix(word, "hostname="); ok {
		host, rest, ok := strings.Cut(rest, " ")
		switch {
		case !ok:
			return invalid
		case host != a.srv.hostname:
			return nothing
		}
		word = strings.TrimSpace(rest)
	}
	if word == "keep-open" {
		return Hang()
	}

	i := strings.LastIndexByte(word, '-') + 1
	// 32 bits of seconds still are a time.Duration.
	n, err := strconv.ParseUint(word[i:], 10, 32)
	if err != nil {
		return invalid
	}
	switch word[:i] {
	case "sleep-":
		return Delay(time.Duration(n) * time.Second)
	case "error-code-":
		return Fail(codes.Code(n), "testsrv: rpc-behavior: "+word)
	case "succeed-on-retry-attempt-":
		if a.arrival.Previous == int(n) {
			return Echo()
		}
		return nothing
	}
	return invalid
}
