package classify_test

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/classify"
)

const (
	retryInfoURL = "type.googleapis.com/google.rpc.RetryInfo"
	quotaURL     = "type.googleapis.com/google.rpc.QuotaFailure"
)

var (
	none  = classify.Hint{}
	stop  = classify.Hint{Kind: classify.HintStop}
	quota = classify.Hint{Kind: classify.HintQuota}
)

func pushback(after time.Duration) classify.Hint {
	return classify.Hint{Kind: classify.HintPushback, After: after}
}

func retryInfo(after time.Duration) classify.Hint {
	return classify.Hint{Kind: classify.HintRetryInfo, After: after}
}

// carrying returns a status with the details as they are on the wire.
func carrying(details ...*anypb.Any) *status.Status {
	return status.FromProto(&spb.Status{Code: int32(codes.ResourceExhausted), Details: details})
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	require.NoError(t, err)
	return a
}

func TestPushback(t *testing.T) {
	t.Parallel()
	rows := []struct {
		values []string
		want   classify.Hint
	}{
		{nil, none},
		{[]string{}, none}, // the key without a value says nothing
		{[]string{"0"}, pushback(0)},
		{[]string{"12"}, pushback(12 * time.Millisecond)},
		{[]string{"+5"}, pushback(5 * time.Millisecond)}, // as strconv reads it
		{[]string{"-0"}, pushback(0)},
		{[]string{"007"}, pushback(7 * time.Millisecond)},
		{[]string{"300000"}, pushback(classify.MaxHint)},
		{[]string{"300001"}, stop},
		{[]string{"2147483647"}, stop},
		{[]string{"999999999999"}, stop},
		{[]string{"99999999999999999999999999"}, stop},
		{[]string{"-1"}, stop},
		{[]string{"-999999999999"}, stop},
		{[]string{""}, stop},
		{[]string{" 1"}, stop},
		{[]string{"1 "}, stop},
		{[]string{"1.5"}, stop},
		{[]string{"1e3"}, stop},
		{[]string{"0x10"}, stop},
		{[]string{"1_000"}, stop},
		{[]string{"١٢"}, stop}, // digits, but not ASCII
		{[]string{"soon"}, stop},
		{[]string{"1", "1"}, stop}, // two values, even the same
		{[]string{"1", "-1"}, stop},
	}
	for _, r := range rows {
		got := classify.HintOf(metadata.MD{classify.PushbackKey: r.values}, nil)
		assert.Equal(t, r.want, got, "%q", r.values)
	}
	assert.Equal(t, none, classify.HintOf(nil, nil))
	assert.Equal(t, none, classify.HintOf(metadata.Pairs("content-type", "application/grpc"), status.New(codes.Unavailable, "")))
}

func TestStatusDetails(t *testing.T) {
	t.Parallel()
	after := func(d *durationpb.Duration) *anypb.Any {
		return packed(t, &errdetails.RetryInfo{RetryDelay: d})
	}
	second := after(durationpb.New(time.Second))
	noQuota := packed(t, &errdetails.QuotaFailure{})
	rows := []struct {
		name    string
		details []*anypb.Any
		want    classify.Hint
	}{
		{"no details", nil, none},
		{"a second", []*anypb.Any{second}, retryInfo(time.Second)},
		{"no delay: at any time", []*anypb.Any{after(nil)}, retryInfo(0)},
		{"zero delay", []*anypb.Any{after(&durationpb.Duration{})}, retryInfo(0)},
		{"negative", []*anypb.Any{after(durationpb.New(-time.Second))}, none},
		{"negative nanoseconds", []*anypb.Any{after(&durationpb.Duration{Nanos: -1})}, none},
		{"mixed signs", []*anypb.Any{after(&durationpb.Duration{Seconds: 1, Nanos: -1})}, none},
		{"too many nanoseconds", []*anypb.Any{after(&durationpb.Duration{Nanos: math.MaxInt32})}, none},
		{"the longest", []*anypb.Any{after(durationpb.New(classify.MaxHint))}, retryInfo(classify.MaxHint)},
		{"one more nanosecond", []*anypb.Any{after(durationpb.New(classify.MaxHint + 1))}, stop},
		{"one more second", []*anypb.Any{after(durationpb.New(classify.MaxHint + time.Second))}, stop},
		{"more than time.Duration holds", []*anypb.Any{after(&durationpb.Duration{Seconds: 1 << 40})}, stop},
		{"most seconds", []*anypb.Any{after(&durationpb.Duration{Seconds: math.MaxInt64})}, stop},
		{"fewest seconds", []*anypb.Any{after(&durationpb.Duration{Seconds: math.MinInt64})}, none},
		{"quota", []*anypb.Any{noQuota}, quota},
		{"quota after retry info", []*anypb.Any{second, noQuota}, retryInfo(time.Second)},
		{"quota before retry info", []*anypb.Any{noQuota, second}, retryInfo(time.Second)},
		{"quota and a delay that is too long", []*anypb.Any{noQuota, after(durationpb.New(classify.MaxHint + 1))}, stop},
		{"quota and a delay that says nothing", []*anypb.Any{after(durationpb.New(-1)), noQuota}, quota},
		{"quota before a delay that says nothing", []*anypb.Any{noQuota, after(durationpb.New(-1))}, quota},
		{"another type beside it", []*anypb.Any{packed(t, &errdetails.ErrorInfo{Reason: "BUSY"}), second}, retryInfo(time.Second)},
		{"another type alone", []*anypb.Any{packed(t, &errdetails.ErrorInfo{Reason: "BUSY"})}, none},
		{"a type nobody knows", []*anypb.Any{{TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte{1}}, second}, retryInfo(time.Second)},
		{"garbage in retry info", []*anypb.Any{{TypeUrl: retryInfoURL, Value: []byte{0xff}}}, none},
		{"garbage in quota failure", []*anypb.Any{{TypeUrl: quotaURL, Value: []byte{0xff}}, second}, retryInfo(time.Second)},
		{"no type", []*anypb.Any{{Value: []byte{1}}}, none},
		{"nil detail", []*anypb.Any{nil, second}, retryInfo(time.Second)},
	}
	for _, r := range rows {
		st := carrying(r.details...)
		assert.Equal(t, r.want, classify.HintOf(nil, st), r.name)
		assert.Equal(t, r.want, classify.HintOf(metadata.MD{classify.PushbackKey: {}}, st), r.name)
		assert.Equal(t, pushback(7*time.Millisecond), classify.HintOf(metadata.Pairs(classify.PushbackKey, "7"), st), "pushback is stronger: %s", r.name)
		assert.Equal(t, stop, classify.HintOf(metadata.Pairs(classify.PushbackKey, "-1"), st), "pushback is stronger: %s", r.name)
	}
}

func TestHintAsksOrStops(t *testing.T) {
	t.Parallel()
	rows := []struct {
		kind        classify.HintKind
		asks, stops bool
	}{
		{classify.NoHint, false, false},
		{classify.HintPushback, true, false},
		{classify.HintRetryInfo, true, false},
		{classify.HintStop, false, true},
		{classify.HintQuota, false, false},
	}
	for _, r := range rows {
		assert.Equal(t, r.asks, classify.Hint{Kind: r.kind}.Asks(), r.kind.String())
		assert.Equal(t, r.stops, classify.Hint{Kind: r.kind}.Stops(), r.kind.String())
	}
}

// FuzzPushback compares with a reading of its own: a decimal integer from 0 to
// MaxHint is a delay, everything else means stop.
func FuzzPushback(f *testing.F) {
	for _, v := range []string{"0", "12", "-1", "", "1.5", " 1", "+5", "-0", "300000", "300001", "999999999999", "1_0", "0x1", "١"} {
		f.Add(v)
	}
	longest := big.NewInt(classify.MaxHint.Milliseconds())
	f.Fuzz(func(t *testing.T, v string) {
		want := stop
		if ms, ok := new(big.Int).SetString(v, 10); ok && ms.Sign() >= 0 && ms.Cmp(longest) <= 0 {
			want = pushback(time.Duration(ms.Int64()) * time.Millisecond)
		}
		require.Equal(t, want, classify.HintOf(metadata.Pairs(classify.PushbackKey, v), nil), "%q", v)
		require.Equal(t, stop, classify.HintOf(metadata.Pairs(classify.PushbackKey, v, classify.PushbackKey, "1"), nil), "%q", v)
	})
}

// FuzzStatusDetails gives arbitrary bytes as the details that HintOf reads.
func FuzzStatusDetails(f *testing.F) {
	seeds := []proto.Message{
		&errdetails.RetryInfo{},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(-time.Hour)},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(classify.MaxHint + 1)},
		&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: math.MaxInt64, Nanos: math.MinInt32}},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "project:p", Description: "daily"}}},
	}
	for _, m := range seeds {
		value, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(value)
	}
	f.Add([]byte{0xff})
	f.Add([]byte{0x0a, 0x7f}) // a length beyond the end
	f.Fuzz(func(t *testing.T, value []byte) {
		asRetryInfo := &anypb.Any{TypeUrl: retryInfoURL, Value: value}
		asQuota := &anypb.Any{TypeUrl: quotaURL, Value: value}

		got := classify.HintOf(nil, carrying(asRetryInfo))
		require.GreaterOrEqual(t, got.After, time.Duration(0), "%x", value)
		require.LessOrEqual(t, got.After, classify.MaxHint, "%x", value)
		require.Contains(t, []classify.HintKind{classify.NoHint, classify.HintRetryInfo, classify.HintStop}, got.Kind, "%x", value)
		if got.Kind != classify.HintRetryInfo {
			require.Zero(t, got.After, "%x", value)
		}
		if proto.Unmarshal(value, new(errdetails.RetryInfo)) != nil {
			require.Equal(t, none, got, "broken: %x", value)
		}

		wantQuota := quota
		if proto.Unmarshal(value, new(errdetails.QuotaFailure)) != nil {
			wantQuota = none
		}
		require.Equal(t, wantQuota, classify.HintOf(nil, carrying(asQuota)), "%x", value)

		want := got
		if got == none {
			want = wantQuota
		}
		require.Equal(t, want, classify.HintOf(nil, carrying(asRetryInfo, asQuota)), "%x", value)
		require.Equal(t, want, classify.HintOf(nil, carrying(asQuota, asRetryInfo)), "%x", value)
	})
}
