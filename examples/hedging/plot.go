package main

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/rego-go/rego/examples/internal/picture"
)

const lineWidth vg.Length = 1.6

var (
	withoutColor = color.RGBA{R: 0xc0, G: 0x3b, B: 0x2b, A: 0xff}
	withColor    = color.RGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff}
	gridColor    = color.Gray{Y: 0xdd}
)

// drawPlot writes a picture with a panel for each scenario: which share of the calls,
// from all to one in ten thousand, is slower than what.
func drawPlot(done []comparison, file string) error {
	return picture.Picture{
		Rows: 1, Cols: len(done), Height: 9 * vg.Centimeter,
		YLabel: "share of calls that are slower",
		Legend: []picture.Entry{
			{Name: "without hedging", Color: withoutColor, Width: lineWidth},
			{Name: "with hedging", Color: withColor, Width: lineWidth},
		},
		Panel: func(i int) (picture.Panel, error) { return panel(done[i]) },
	}.Write(file)
}

func panel(c comparison) (picture.Panel, error) {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s, MaxExtraLoad %v", c.name, c.maxExtraLoad)
	p.Title.Padding = 2 * vg.Millimeter
	p.X.Label.Text = "latency in ms"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker = labels{1: "1", 2: "2", 5: "5", 10: "10", 20: "20", 50: "50", 100: "100", 200: "200", 500: "500", 1000: "1000"}
	p.Y.Tick.Marker = labels{1: "100 %", 0.1: "10 %", 0.01: "1 %", 0.001: "0.1 %", 0.0001: "0.01 %"}

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = gridColor, gridColor
	p.Add(grid)
	notes := []picture.Note{{Text: "p99.9 of the calls", Color: color.Black}}
	for _, l := range []struct {
		name  string
		of    result
		color color.Color
	}{
		{"without", c.without, withoutColor},
		{"with", c.with, withColor},
	} {
		line, err := plotter.NewLine(slower(l.of))
		if err != nil {
			return picture.Panel{}, err
		}
		line.Color, line.Width, line.StepStyle = l.color, lineWidth, plotter.PreStep
		p.Add(line)
		notes = append(notes, picture.Note{Text: l.name + ": " + millis(l.of.quantile(0.999)), Color: l.color})
	}
	p.X.Min, p.X.Max = 2, 500
	p.Y.Min, p.Y.Max = 1e-4, 1
	return picture.Panel{Plot: p, Notes: notes, Top: 0.96}, nil
}

// slower returns, for latencies that a line needs, the share of calls above them.
func slower(r result) (points plotter.XYs) {
	n := len(r.latencies)
	last := 0.0
	for i, l := range r.latencies {
		x := max(float64(l)/1e6, 2)
		if x < last*1.01 && i < n-20 { // nobody sees the difference
			continue
		}
		last = x
		points = append(points, plotter.XY{X: x, Y: max(float64(n-i)/float64(n), 1e-4)})
	}
	return points
}

// labels are the ticks of an axis.
type labels map[float64]string

// Ticks implements [plot.Ticker].
func (l labels) Ticks(low, high float64) (ticks []plot.Tick) {
	for value, label := range l {
		if value >= low*0.999 && value <= high*1.001 {
			ticks = append(ticks, plot.Tick{Value: value, Label: label})
		}
	}
	return ticks
}
