import { clip } from './api.js'
import { h, replace, svg } from './dom.js'

// A recording: its player, and waveform and spectrogram under a mark that goes with it. Where it is not to be had it says so.
export function player (parameters, seconds) {
  const audio = h('audio', { controls: true, preload: 'metadata', src: clip('sound.wav', parameters) })
  const mark = h('span', { class: 'mark', 'aria-hidden': 'true' })
  const wave = h('div', { class: 'wave' })
  const mel = h('img', {
    class: 'mel', alt: 'Mel spectrogram, from 0 to 8 kHz', loading: 'lazy', src: clip('mel.png', parameters)
  })
  const pictures = h('div', { class: 'pictures' }, wave, mel, mark)
  const element = h('div', { class: 'player' }, audio, pictures)

  function place () {
    const length = audio.duration || seconds || 1
    mark.style.left = `${100 * Math.min(audio.currentTime / length, 1)}%`
  }
  let frame = 0
  function follow () {
    place()
    if (!audio.paused) frame = requestAnimationFrame(follow)
  }
  audio.addEventListener('play', follow)
  audio.addEventListener('seeked', place)
  pictures.addEventListener('click', event => {
    const box = pictures.getBoundingClientRect()
    audio.currentTime = (event.clientX - box.left) / box.width * (audio.duration || 0)
  })

  const ready = fetch(clip('peaks', parameters)).then(async answer => {
    const told = await answer.json()
    if (answer.ok) replace(wave, drawn(told.peaks))
    else replace(element, h('p', { class: 'note' }, `No sound: ${told.detail}`))
  }).catch(error => replace(element, h('p', { class: 'note' }, `No sound: ${error.message}`)))
  return {
    element,
    ready,
    playing: () => !audio.paused,
    // Where there is nothing to play, the page says so already.
    toggle: () => audio.paused ? audio.play().catch(error => console.info(error.message)) : audio.pause(),
    stop: () => { cancelAnimationFrame(frame); audio.pause() }
  }
}

function drawn (peaks) {
  const most = Math.max(...peaks.map(([low, high]) => Math.max(-low, high)), 1e-6)
  const path = peaks.map(([low, high], place) => `M${place + 0.5} ${50 - 48 * high / most}V${50 - 48 * low / most + 0.5}`).join('')
  return svg('svg', { viewBox: `0 0 ${peaks.length} 100`, preserveAspectRatio: 'none', role: 'img', 'aria-label': 'Waveform' },
    svg('path', { d: path, 'vector-effect': 'non-scaling-stroke' }))
}
