package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// share is a flag for a share of the clients: 5% or 0.05.
type share float64

// String is that of pflag.Value.
func (s *share) String() string {
	if *s == 0 {
		return ""
	}
	return strings.ReplaceAll(percent(float64(*s)), " ", "")
}

// Set is that of pflag.Value.
func (s *share) Set(text string) error {
	number, isPercent := strings.CutSuffix(strings.TrimSpace(text), "%")
	x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if isPercent {
		x /= 100
	}
	if err != nil || !(x > 0 && x < 1) {
		return errors.New("must be above 0 % and below 100 %, such as 5% or 0.05")
	}
	*s = share(x)
	return nil
}

// Type is that of pflag.Value.
func (s *share) Type() string { return "share" }

// shares is a flag for several of them.
type shares []float64

// String is that of pflag.Value.
func (s *shares) String() string {
	var words []string
	for _, x := range *s {
		one := share(x)
		words = append(words, one.String())
	}
	return strings.Join(words, ",")
}

// Set is that of pflag.Value.
func (s *shares) Set(text string) error {
	for word := range strings.SplitSeq(text, ",") {
		var one share
		if err := one.Set(word); err != nil {
			return err
		}
		*s = append(*s, float64(one))
	}
	return nil
}

// Type is that of pflag.Value.
func (s *shares) Type() string { return "shares" }

func durationOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
