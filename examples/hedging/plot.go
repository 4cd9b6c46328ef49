package main

import (
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

var (
	withoutColor = color.RGBA{R: 0xc0, G: 0x3b, B: 0x2b, A: 0xff}
	withColor    = color.RGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff}
	gridColor    = color.Gray{Y: 0xdd}
)

// drawPlot writes a picture with a panel for each scenario: which share of the calls,
// from all to one in ten thousand, is slower than what.
func drawPlot(done []comparison, file string) (err error) {
	const width, height = 11 * vg.Centimeter, 9 * vg.Centimeter
	format := strings.TrimPrefix(filepath.Ext(file), ".")
	canvas, err := draw.NewFormattedCanvas(width*vg.Length(len(done)), height, format)
	if err != nil {
		return err
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	tiles := draw.Tiles{Rows: 1, Cols: len(done), PadX: 4 * vg.Millimeter, PadTop: 2 * vg.Millimeter, PadBottom: 2 * vg.Millimeter, PadLeft: 2 * vg.Millimeter, PadRight: 4 * vg.Millimeter}
	for i, c := range done {
		p, err := panel(c)
		if err != nil {
			return err
		}
		p.Draw(tiles.At(whole, i, 0))
	}

	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = canvas.WriteTo(f)
	return err
}

func panel(c comparison) (*plot.Plot, error) {
	p := plot.New()
	// A label at a logarithmic axis of Y is given too much room.
	p.Title.Text = c.name + ": share of calls that are slower"
	p.X.Label.Text = "latency in ms"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker = labels{1: "1", 2: "2", 5: "5", 10: "10", 20: "20", 50: "50", 100: "100", 200: "200", 500: "500", 1000: "1000"}
	p.Y.Tick.Marker = labels{1: "100 %", 0.1: "10 %", 0.01: "1 %", 0.001: "0.1 %", 0.0001: "0.01 %"}
	p.Legend.Top, p.Legend.XOffs, p.Legend.YOffs = true, -2*vg.Millimeter, -2*vg.Millimeter
	p.Title.Padding = 2 * vg.Millimeter

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = gridColor, gridColor
	p.Add(grid)
	for _, l := range []struct {
		name  string
		of    result
		color color.Color
	}{
		{"without hedging", c.without, withoutColor},
		{fmt.Sprintf("MaxExtraLoad %v", c.maxExtraLoad), c.with, withColor},
	} {
		line, err := plotter.NewLine(slower(l.of))
		if err != nil {
			return nil, err
		}
		line.Color, line.Width, line.StepStyle = l.color, vg.Points(1.6), plotter.PreStep
		p.Add(line)
		p.Legend.Add(l.name, line)
	}
	p.X.Min, p.X.Max = 2, 500
	p.Y.Min, p.Y.Max = 1e-4, 1
	return p, nil
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
