package hedge_test

import (
	"testing"
	"time"

	"github.com/rego-go/rego/hedge"
)

// Run with -cpu 1,2: a sample may not cost more on two processors than on one.

func BenchmarkRecord(b *testing.B) {
	d := hedge.NewTracker().Quantile(0.98, hedge.Bounds{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		start := time.Now()
		for i := 0; pb.Next(); i++ {
			d.Record(start, start.Add(time.Duration(i&1023)*10*time.Microsecond+time.Millisecond))
		}
	})
}

// All samples in one bucket, as a method has that always takes as long.
func BenchmarkRecordSame(b *testing.B) {
	d := hedge.NewTracker().Quantile(0.98, hedge.Bounds{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		start := time.Now()
		end := start.Add(5 * time.Millisecond)
		for pb.Next() {
			d.Record(start, end)
		}
	})
}

func BenchmarkAfter(b *testing.B) {
	d := hedge.NewTracker().Quantile(0.98, hedge.Bounds{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			d.After()
		}
	})
}

// Refreshing is for one sample in a tenth of a second.
func BenchmarkRefresh(b *testing.B) {
	tr := hedge.NewTracker()
	d := tr.Quantile(0.98, hedge.Bounds{})
	start := time.Now()
	for i := range 10_000 {
		d.Record(start, start.Add(time.Duration(i)*10*time.Microsecond))
	}
	b.ReportAllocs()
	for b.Loop() {
		tr.Quantile(0.98, hedge.Bounds{})
	}
}
