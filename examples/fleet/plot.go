package main

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/rego-go/rego/examples/internal/picture"
)

// colors are those of the budgets, by name.
var colors = map[string]color.Color{
	off.name:       color.Gray{Y: 0x78},
	none.name:      color.RGBA{R: 0xe0, G: 0x8e, B: 0x1b, A: 0xff},
	floored.name:   color.RGBA{R: 0xc0, G: 0x3b, B: 0x2b, A: 0xff},
	throttled.name: color.RGBA{R: 0x5a, G: 0x9e, B: 0x4b, A: 0xff},
	byDefault.name: color.RGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff},
}

// drawPlot writes a picture with a panel for each load and fleet, a row for each load:
// how many of the calls that start at a time succeed.
func drawPlot(panels []panel, fleets int, file string) error {
	var legend []picture.Entry
	for i, l := range panels[0].lines {
		legend = append(legend, picture.Entry{Name: l.name, Color: colors[l.name], Width: panels[0].width(i)})
	}
	return picture.Picture{
		Rows: len(panels) / fleets, Cols: fleets, Height: 8 * vg.Centimeter,
		YLabel: "calls that succeed per second",
		Legend: legend,
		Panel:  func(i int) (picture.Panel, error) { return panels[i].draw() },
	}.Write(file)
}

// width is that of a line: those below can be seen.
func (p panel) width(i int) vg.Length { return vg.Points(1.8 + float64(len(p.lines)-1-i)) }

func (p panel) draw() (picture.Panel, error) {
	drawn := plot.New()
	drawn.Title.Text = fmt.Sprintf("%s, load %v", fleet(p.clients), p.load)
	drawn.Title.Padding = 2 * vg.Millimeter
	drawn.X.Label.Text = "seconds since the end of the cut"
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 0xdd}, color.Gray{Y: 0xdd}
	drawn.Add(grid)
	notes := []picture.Note{{Text: "recovered after", Color: color.Black}}
	for i, l := range p.lines {
		drawnLine, err := plotter.NewLine(goodput(l.slots))
		if err != nil {
			return picture.Panel{}, err
		}
		drawnLine.Color, drawnLine.Width = colors[l.name], p.width(i)
		drawn.Add(drawnLine)
		if l.name != off.name && l.name != byDefault.name { // those in between would be overprinted
			continue
		}
		after := seconds(recovery(l.slots))
		if after != "never" {
			after += " s"
		}
		notes = append(notes, picture.Note{Text: l.name + ": " + after, Color: colors[l.name]})
	}
	drawn.X.Min, drawn.X.Max = -cutEnds.Seconds(), 60
	drawn.Y.Min, drawn.Y.Max = 0, 1.1*callsPerSecond
	return picture.Panel{Plot: drawn, Notes: notes, Top: 0.7}, nil
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
