// Package picture draws plots side by side, with one legend above all of them.
//
// A plot has room for its curves alone: the legend stands above, and the numbers that matter
// stand where the plot says that no curve goes.
package picture

import (
	"errors"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A Picture is plots of one kind, in rows.
type Picture struct {
	Rows, Cols int
	Height     vg.Length // of a plot
	YLabel     string    // of each plot
	Legend     []Entry
	Panel      func(i int) (Panel, error) // row by row
}

// An Entry is a line of the legend.
type Entry struct {
	Name  string
	Color color.Color
	Width vg.Length
}

// A Panel is a plot and the numbers that matter of it.
type Panel struct {
	Plot  *plot.Plot
	Notes []Note
	Top   float64 // where the notes begin, as a share of the plot's height
}

// A Note is a line of text at the right of a plot.
type Note struct {
	Text  string
	Color color.Color
}

const (
	width  = 11 * vg.Centimeter // of a plot
	header = 9 * vg.Millimeter
	margin = 2 * vg.Millimeter
	gap    = 4 * vg.Millimeter
	label  = 6 * vg.Millimeter // is what that of Y takes
)

// Write draws the picture into a file, whose name says the format: .svg or .png.
func (p Picture) Write(file string) (err error) {
	canvas, err := draw.NewFormattedCanvas(width*vg.Length(p.Cols), p.Height*vg.Length(p.Rows)+header, strings.TrimPrefix(filepath.Ext(file), "."))
	if err != nil {
		return err
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	p.legend(draw.Crop(whole, 0, 0, whole.Max.Y-whole.Min.Y-header, 0))
	plots := draw.Crop(whole, 0, 0, 0, -header)
	tiles := draw.Tiles{
		Rows: p.Rows, Cols: p.Cols, PadX: gap, PadY: gap,
		PadTop: margin, PadBottom: margin, PadLeft: margin, PadRight: gap,
	}
	for i := range p.Rows * p.Cols {
		panel, err := p.Panel(i)
		if err != nil {
			return err
		}
		panel.draw(tiles.At(plots, i%p.Cols, i/p.Cols), p.YLabel)
	}

	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = canvas.WriteTo(f)
	return err
}

// legend draws all entries in a row.
func (p Picture) legend(c draw.Canvas) {
	const swatch, space = 8 * vg.Millimeter, 8 * vg.Millimeter
	style := styled(color.Black)
	style.YAlign = text.YCenter
	x, y := c.Min.X+margin+label, (c.Min.Y+c.Max.Y)/2
	for _, e := range p.Legend {
		c.StrokeLine2(draw.LineStyle{Color: e.Color, Width: e.Width}, x, y, x+swatch, y)
		x += swatch + margin
		c.FillText(style, vg.Point{X: x, Y: y}, e.Name)
		x += style.Width(e.Name) + space
	}
}

// draw draws the label of Y itself: plot gives one at a logarithmic axis far too much room.
func (p Panel) draw(c draw.Canvas, yLabel string) {
	inner := draw.Crop(c, label, 0, 0, 0)
	p.Plot.Draw(inner)
	data := p.Plot.DataCanvas(inner)

	upright := styled(color.Black)
	upright.Rotation, upright.XAlign, upright.YAlign = math.Pi/2, text.XCenter, text.YTop
	c.FillText(upright, vg.Point{X: c.Min.X, Y: (data.Min.Y + data.Max.Y) / 2}, yLabel)

	style := styled(color.Black)
	style.XAlign, style.YAlign = text.XRight, text.YTop
	at := vg.Point{X: data.Max.X - margin, Y: data.Min.Y + vg.Length(p.Top)*(data.Max.Y-data.Min.Y)}
	for _, n := range p.Notes {
		style.Color = n.Color
		c.FillText(style, at, n.Text)
		at.Y -= 1.4 * style.Font.Size
	}
}

func styled(c color.Color) text.Style {
	return text.Style{Color: c, Font: font.From(plot.DefaultFont, 12), Handler: plot.DefaultTextHandler}
}
