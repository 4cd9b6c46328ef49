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

// colors are those of the budgets, by name.
var colors = map[string]color.Color{
	off.name:       color.Gray{Y: 0x90},
	none.name:      color.RGBA{R: 0xe0, G: 0x8e, B: 0x1b, A: 0xff},
	floored.name:   color.RGBA{R: 0xc0, G: 0x3b, B: 0x2b, A: 0xff},
	throttled.name: color.RGBA{R: 0x5a, G: 0x9e, B: 0x4b, A: 0xff},
	byDefault.name: color.RGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff},
}

// drawPlot writes a picture with a panel for each load and fleet, a row for each load:
// what share of the calls that start at a time succeed.
func drawPlot(panels []panel, fleets int, file string) (err error) {
	const width, height = 11 * vg.Centimeter, 8 * vg.Centimeter
	rows := len(panels) / fleets
	canvas, err := draw.NewFormattedCanvas(width*vg.Length(fleets), height*vg.Length(rows), strings.TrimPrefix(filepath.Ext(file), "."))
	if err != nil {
		return err
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	tiles := draw.Tiles{
		Rows: rows, Cols: fleets, PadX: 4 * vg.Millimeter, PadY: 4 * vg.Millimeter,
		PadTop: 2 * vg.Millimeter, PadBottom: 2 * vg.Millimeter, PadLeft: 2 * vg.Millimeter, PadRight: 4 * vg.Millimeter,
	}
	for i, p := range panels {
		drawn, err := p.draw(i == 0)
		if err != nil {
			return err
		}
		drawn.Draw(tiles.At(whole, i%fleets, i/fleets))
	}

	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = canvas.WriteTo(f)
	return err
}

func (p panel) draw(legend bool) (*plot.Plot, error) {
	drawn := plot.New()
	drawn.Title.Text = fmt.Sprintf("%s, load %v: calls that succeed per second", fleet(p.clients), p.load)
	drawn.Title.Padding = 2 * vg.Millimeter
	drawn.X.Label.Text = "seconds since the end of the cut"
	drawn.Legend.YOffs, drawn.Legend.XOffs, drawn.Legend.Padding = 10*vg.Millimeter, -2*vg.Millimeter, vg.Millimeter
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 0xdd}, color.Gray{Y: 0xdd}
	drawn.Add(grid)
	for i, l := range p.lines {
		drawnLine, err := plotter.NewLine(goodput(l.slots))
		if err != nil {
			return nil, err
		}
		drawnLine.Color, drawnLine.Width = colors[l.name], vg.Points(1.8+float64(len(p.lines)-1-i)) // those below can be seen
		drawn.Add(drawnLine)
		if legend {
			drawn.Legend.Add(l.name, drawnLine)
		}
	}
	drawn.X.Min, drawn.X.Max = -cutEnds.Seconds(), 60
	drawn.Y.Min, drawn.Y.Max = 0, 1.1*callsPerSecond
	return drawn, nil
}

// goodput is an average over a second, since single slots are noisy.
func goodput(slots []slot) (points plotter.XYs) {
	const average = 4
	for i := range len(slots) - average + 1 {
		sum := 0.0
		for _, s := range slots[i : i+average] {
			sum += s.goodput()
		}
		x := (float64(i)+average/2)*slotLength.Seconds() - cutEnds.Seconds()
		points = append(points, plotter.XY{X: x, Y: sum / average})
	}
	return points
}
