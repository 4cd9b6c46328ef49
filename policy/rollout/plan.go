package rollout

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/rego-go/rego/policy"
)

// Plan says how a set of policies is tried out. Only Steps has no default.
type Plan struct {
	// Steps are shares of the clients, rising, each above 0 and below 1: the clients of the
	// first share get the set first. After the last step all clients get it. There is at least
	// one step, and at most a hundred.
	Steps []float64

	// Bake is how long each step lasts at least. Zero means 10 minutes.
	Bake time.Duration

	// Alpha bounds the probability of rejecting a set that does no harm, over the whole
	// rollout and however often it is looked at. It is above 0 and below 1. Zero means 0.01.
	Alpha float64

	// MinCalls is the least number of calls of the canary in each step. Zero means 1000.
	MinCalls int64

	// MaxExtra is how many extra attempts per call never count as harm. It is at most 4.
	// Zero means 0.1: the default budget lets retries be a tenth of the calls.
	MaxExtra float64
}

const maxSteps = 100

// WithDefaults returns the plan with defaults instead of zeros.
func (p Plan) WithDefaults() Plan {
	if p.Bake == 0 {
		p.Bake = 10 * time.Minute
	}
	if p.Alpha == 0 {
		p.Alpha = 0.01
	}
	if p.MinCalls == 0 {
		p.MinCalls = 1000
	}
	if p.MaxExtra == 0 {
		p.MaxExtra = 0.1
	}
	return p
}

// Validate returns nil, or a [policy.Faults] with every field that is wrong. Zeros that have a
// default are right.
func (p Plan) Validate() error {
	var faults policy.Faults
	add := func(path, format string, args ...any) {
		faults = append(faults, policy.Fault{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	if n := len(p.Steps); n == 0 || n > maxSteps {
		add("steps", "must be between 1 and %d shares, got %d", maxSteps, n)
	}
	for i, share := range p.Steps[:min(len(p.Steps), maxSteps)] {
		path := fmt.Sprintf("steps[%d]", i)
		switch {
		case !(share > 0 && share < 1): // NaN too
			add(path, "must be above 0 and below 1, got %v", share)
		case i > 0 && share <= p.Steps[i-1]:
			add(path, "must be above steps[%d], which is %v, got %v", i-1, p.Steps[i-1], share)
		}
	}
	p = p.WithDefaults()
	if p.Bake < 0 {
		add("bake", "must not be negative, got %v", p.Bake)
	}
	if !(p.Alpha > 0 && p.Alpha < 1) {
		add("alpha", "must be above 0 and below 1, got %v", p.Alpha)
	}
	if p.MinCalls < 0 {
		add("min_calls", "must not be negative, got %d", p.MinCalls)
	}
	if !(p.MaxExtra > 0 && p.MaxExtra <= perCall) {
		add("max_extra", "must be above 0 and at most %d, got %v", perCall, p.MaxExtra)
	}
	if len(faults) == 0 {
		return nil
	}
	return faults
}

// Includes reports whether an instance of a client is in a share of them, for the set of
// this version. The answer is the same in every process and release. An instance that is in
// a share is in every larger one, so a client that has the set keeps it when the next step
// begins. The order of the instances is different for each version, so it is not always the
// same ones that take the risk.
//
// With many instances, about the share is included. With few, it can be none. A share of 0
// or less includes no instance, and a share of 1 or more includes all.
func Includes(version, instance string, share float64) bool { return place(version, instance) < share }

// place returns where an instance stands among all, from 0 to below 1.
func place(version, instance string) float64 {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(version)))) // else "1" and "23" were "12" and "3"
	h.Write([]byte(version))
	h.Write([]byte(instance))
	return math.Ldexp(hashed(h.Sum(nil)), -mantissa)
}

// mantissa is how many bits of a hash a float64 holds exactly.
const mantissa = 53

// hashed returns the first bits of a hash as a whole number.
func hashed(sum []byte) float64 { return float64(binary.BigEndian.Uint64(sum) >> (64 - mantissa)) }
