package debugpage

import (
	"strconv"
	"time"

	"github.com/rego-go/rego/internal/webpage"
)

// Charts are drawn on a canvas of their own units, which is stretched to where they are shown.
const (
	chartWidth  = 600
	chartHeight = 100
)

// chart is a picture of the last minutes.
type chart struct {
	Title string
	Max   string // at the top of the scale
	From  string // how long ago it begins
	Lines []line
}

// line is one of the lines of a chart.
type line struct {
	Name, Class string // what it is, and how it is drawn
	Now         string // its value of late
	Path        string
	Area        string // the same closed to the ground, empty for none
}

// curve is what a line is drawn of: values that hold each until its time.
type curve struct {
	name, class string
	value       func(i int) float64
	filled      bool
}

// drawing draws charts of the same times.
type drawing struct {
	n      int
	at     func(i int) (end time.Time, seconds float64)
	begins time.Time
	total  float64 // seconds
}

// newDrawing leaves out the last interval if it has only begun: its rates would jump.
func newDrawing(n int, at func(i int) (time.Time, float64)) drawing {
	if n > 1 {
		if _, seconds := at(n - 1); seconds < interval.Seconds()/2 {
			n--
		}
	}
	d := drawing{n: n, at: at}
	if n > 0 {
		end, seconds := at(0)
		d.begins = end.Add(-time.Duration(seconds * float64(time.Second)))
		last, _ := at(n - 1)
		d.total = max(last.Sub(d.begins).Seconds(), 1e-9)
	}
	return d
}

func (d *drawing) x(t time.Time) float64 { return t.Sub(d.begins).Seconds() / d.total * chartWidth }

// chart draws curves on one scale, which begins at zero.
func (d *drawing) chart(title string, unit func(float64) string, curves ...curve) chart {
	c := chart{Title: title, From: webpage.Ago(d.total)}
	most := 0.0
	for _, of := range curves {
		for i := range d.n {
			most = max(most, of.value(i))
		}
	}
	scale := niceAbove(most)
	c.Max = unit(scale)
	for _, of := range curves {
		path := d.steps(of.value, scale)
		l := line{Name: of.name, Class: of.class, Path: string(path)}
		if of.filled && d.n > 0 {
			l.Area = string(append(path, "V100H0Z"...))
		}
		if d.n > 0 {
			l.Now = unit(of.value(d.n - 1))
		}
		c.Lines = append(c.Lines, l)
	}
	return c
}

// steps draws values that hold each for an interval. Equal ones are one line.
func (d *drawing) steps(value func(i int) float64, scale float64) []byte {
	if d.n == 0 {
		return nil
	}
	y := func(i int) float64 { return chartHeight - value(i)/scale*(chartHeight-4) }
	b := appendTo(nil, 'M', 0, y(0))
	for i := range d.n {
		if i > 0 && value(i) != value(i-1) {
			b = append(b, 'V')
			b = appendNumber(b, y(i))
		}
		if i == d.n-1 || value(i) != value(i+1) {
			end, _ := d.at(i)
			b = append(b, 'H')
			b = appendNumber(b, d.x(end))
		}
	}
	return b
}

func appendTo(b []byte, to byte, x, y float64) []byte {
	b = appendNumber(append(b, to), x)
	return appendNumber(append(b, ' '), y)
}

func appendNumber(b []byte, v float64) []byte { return strconv.AppendFloat(b, v, 'f', 1, 64) }

// niceAbove returns the next of 1, 2, 5, 10, 20, 50 and so on.
func niceAbove(v float64) float64 {
	if v < 1e-9 { // nothing, or next to it
		return 1
	}
	unit := 1.0
	for unit > v {
		unit /= 10
	}
	for unit*10 < v {
		unit *= 10
	}
	for _, f := range []float64{1, 2, 5} {
		if v <= f*unit {
			return f * unit
		}
	}
	return 10 * unit
}

// callCharts draws the history of calls.
func callCharts(list []past) []chart {
	d := newDrawing(len(list), func(i int) (time.Time, float64) { return list[i].Time, list[i].Seconds })
	rate := func(of func(p *past) int64) func(i int) float64 {
		return func(i int) float64 { return webpage.PerSecond(of(&list[i]), list[i].Seconds) }
	}
	return []chart{
		d.chart("Calls per second", webpage.Decimals,
			curve{"calls", "calls", rate(func(p *past) int64 { return p.Calls }), true},
			curve{"failed", "failed", rate(func(p *past) int64 { return p.Failed }), true}),
		d.chart("Extra attempts per second", webpage.Decimals,
			curve{"retries", "retries", rate(func(p *past) int64 { return p.Retries }), true},
			curve{"hedges", "hedges", rate(func(p *past) int64 { return p.Hedges }), false}),
		d.chart("Denied per second", webpage.Decimals,
			curve{"denied", "denied", rate(func(p *past) int64 { return p.Denied }), true}),
	}
}

// budgetCharts draws the history of a budget.
func budgetCharts(b *budgetView) []chart {
	list := b.History
	if len(list) == 0 {
		return nil
	}
	d := newDrawing(len(list), func(i int) (time.Time, float64) { return list[i].Time, list[i].Seconds })
	var charts []chart
	if b.Balance != nil {
		c := d.chart("Balance", webpage.Decimals, curve{"balance", "calls", func(i int) float64 { return max(list[i].Balance, 0) }, true})
		c.Lines[0].Now = webpage.Decimals(*b.Balance)
		charts = append(charts, c)
	}
	return append(charts, d.chart("Answers per second", webpage.Decimals,
		curve{"granted", "granted", func(i int) float64 { return webpage.PerSecond(list[i].Granted, list[i].Seconds) }, true},
		curve{"denied", "denied", func(i int) float64 { return webpage.PerSecond(list[i].Denied, list[i].Seconds) }, true}))
}

// sparkLocked gives rows a small chart of their calls and of what was extra or failed. Those
// that have not been called in these minutes, or whose history is shorter, get none.
func (h *history) sparkLocked(rows []methodRow, sum []past) {
	d := newDrawing(len(sum)-1, func(i int) (time.Time, float64) { return sum[i].Time, sum[i].Seconds })
	first := max(h.n-samples+2, 1)
	for i := range rows {
		s := h.methods[key{rows[i].Target, rows[i].name}]
		if s == nil || s.from > first || h.n-s.busy >= samples {
			continue
		}
		at := func(j int) point { return s.points[(first+j)%samples] }
		c := d.chart("", webpage.Decimals,
			curve{"calls", "calls", func(j int) float64 { return webpage.PerSecond(int64(at(j).calls), sum[j].Seconds) }, true},
			curve{"extra", "retries", func(j int) float64 {
				p := at(j)
				return webpage.PerSecond(int64(p.retries)+int64(p.hedges), sum[j].Seconds)
			}, false})
		rows[i].Spark = &c
	}
}
