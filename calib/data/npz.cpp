// SPDX-License-Identifier: Apache-2.0
#include "calib/data/npz.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>

#include "formats/base/error.h"
#include "formats/file/npy.h"

namespace qtool {
namespace {

// Signatures of APPNOTE.TXT (PKWARE), and the sizes of the records that carry them.
constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50,
                        end64_signature = 0x06064b50, locator64_signature = 0x07064b50;
constexpr std::size_t local_size = 30, central_size = 46, end_size = 22, end64_size = 56, locator64_size = 20;
constexpr std::uint32_t in_extra = 0xffffffff;  // the value is in the zip64 extra field
constexpr std::uint64_t deflate_ratio = 1032;   // no deflate stream grows more

/// Little-endian numbers of a byte range, bounds checked.
class Bytes {
 public:
  Bytes(std::span<const std::byte> b, const std::string& source) : b_(b), source_(source) {}
  std::uint64_t number(std::uint64_t at, int bytes) const {
    const auto part = range(at, static_cast<std::uint64_t>(bytes));
    std::uint64_t v = 0;
    for (std::size_t i = part.size(); i-- > 0;) v = v << 8 | static_cast<std::uint64_t>(part[i]);
    return v;
  }
  std::uint32_t u16(std::uint64_t at) const { return static_cast<std::uint32_t>(number(at, 2)); }
  std::uint32_t u32(std::uint64_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }
  std::uint64_t u64(std::uint64_t at) const { return number(at, 8); }
  std::span<const std::byte> range(std::uint64_t at, std::uint64_t size) const {
    if (at > b_.size() || size > b_.size() - at) throw Error(Code::input, source_ + ": the zip file is cut short");
    return b_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(size));
  }
  std::uint64_t size() const { return b_.size(); }

 private:
  std::span<const std::byte> b_;
  const std::string& source_;
};

std::uint32_t crc_of(std::span<const std::byte> b) {
  uLong crc = crc32(0, nullptr, 0);
  while (!b.empty()) {
    const std::size_t n = std::min<std::size_t>(b.size(), 1u << 30);
    crc = crc32(crc, reinterpret_cast<const Bytef*>(b.data()), static_cast<uInt>(n));
    b = b.subspan(n);
  }
  return static_cast<std::uint32_t>(crc);
}

/// Raw deflate data that must give exactly `to`.
bool inflate_all(std::span<const std::byte> from, std::span<std::byte> to) {
  z_stream z{};
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return false;
  int state = Z_OK;
  std::size_t in = 0, out = 0;
  Bytef spare = 0;  // zlib wants a pointer even where nothing is left to write
  while (state == Z_OK) {
    const std::size_t n = std::min<std::size_t>(from.size() - in, 1u << 30);
    const std::size_t m = std::min<std::size_t>(to.size() - out, 1u << 30);
    z.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data() + in));
    z.avail_in = static_cast<uInt>(n);
    z.next_out = m > 0 ? reinterpret_cast<Bytef*>(to.data() + out) : &spare;
    z.avail_out = static_cast<uInt>(m);
    state = inflate(&z, Z_NO_FLUSH);
    in += n - z.avail_in;
    out += m - z.avail_out;
  }
  inflateEnd(&z);
  return state == Z_STREAM_END && out == to.size();
}

/// The zip64 extra field holds those of size, packed size and offset that did not fit, in this order.
void read_zip64(const Bytes& bytes, std::uint64_t at, std::uint64_t length, std::uint64_t& size, std::uint64_t& packed,
                std::uint64_t& offset) {
  const std::uint64_t end = at + length;
  while (at + 4 <= end) {
    const std::uint32_t id = bytes.u16(at), n = bytes.u16(at + 2);
    if (id == 1) {
      std::uint64_t field = at + 4;
      for (std::uint64_t* v : {&size, &packed, &offset}) {
        if (*v != in_extra) continue;
        *v = bytes.u64(field);
        field += 8;
      }
      return;
    }
    at += 4 + n;
  }
}

}  // namespace

NpzFile::NpzFile(const std::filesystem::path& path) : source_(path.string()), file_(path) { read_directory(); }

void NpzFile::read_directory() {
  const Bytes bytes(file_.bytes(), source_);
  const auto refuse = [&](const std::string& what) { return Error(Code::input, source_ + ": " + what); };
  // The end record is the last thing but for a comment of at most 65535 bytes.
  if (bytes.size() < end_size) throw refuse("this is no .npz file (zip)");
  std::uint64_t end = bytes.size() - end_size;
  const std::uint64_t first = end > 65535 ? end - 65535 : 0;
  while (bytes.u32(end) != end_signature) {
    if (end == first) throw refuse("this is no .npz file (zip), or it is cut short");
    --end;
  }
  std::uint64_t count = bytes.u16(end + 10), at = bytes.u32(end + 16);
  if (end >= locator64_size && bytes.u32(end - locator64_size) == locator64_signature) {
    const std::uint64_t end64 = bytes.u64(end - locator64_size + 8);
    (void)bytes.range(end64, end64_size);
    if (bytes.u32(end64) != end64_signature) throw refuse("the zip64 directory is broken");
    count = bytes.u64(end64 + 32);
    at = bytes.u64(end64 + 48);
  }
  if (count > bytes.size() / central_size) throw refuse("the zip directory is larger than the file");
  std::set<std::string> seen;
  for (std::uint64_t i = 0; i < count; ++i) {
    (void)bytes.range(at, central_size);
    if (bytes.u32(at) != central_signature) throw refuse("the zip directory is broken");
    Member m;
    const std::uint32_t flags = bytes.u16(at + 8), method = bytes.u16(at + 10);
    m.crc = bytes.u32(at + 16);
    m.packed = bytes.u32(at + 20);
    m.size = bytes.u32(at + 24);
    const std::uint64_t name = bytes.u16(at + 28), extra = bytes.u16(at + 30), comment = bytes.u16(at + 32);
    m.offset = bytes.u32(at + 42);
    const auto text = bytes.range(at + central_size, name);
    m.name.assign(reinterpret_cast<const char*>(text.data()), text.size());
    (void)bytes.range(at + central_size + name, extra);
    read_zip64(bytes, at + central_size + name, extra, m.size, m.packed, m.offset);
    at += central_size + name + extra + comment;
    constexpr std::string_view suffix = ".npy";
    if (m.name.size() < suffix.size() || m.name.substr(m.name.size() - suffix.size()) != suffix) continue;
    m.name.resize(m.name.size() - suffix.size());
    if ((flags & 1) != 0) throw refuse("the array \"" + m.name + "\" is encrypted");
    if (method != 0 && method != 8) {
      throw refuse("the array \"" + m.name + "\" is compressed by method " + std::to_string(method) +
                   "; only deflate is read");
    }
    m.deflated = method == 8;
    if (!seen.insert(m.name).second) throw refuse("the array \"" + m.name + "\" is there twice");
    if (m.packed > bytes.size() || (!m.deflated && m.size != m.packed) ||
        (m.deflated && m.size / deflate_ratio > m.packed)) {
      throw refuse("the array \"" + m.name + "\" cannot be as large as the zip directory says");
    }
    members_.push_back(std::move(m));
  }
}

std::vector<std::string> NpzFile::names() const {
  std::vector<std::string> out;
  for (const Member& m : members_) out.push_back(m.name);
  return out;
}

Tensor NpzFile::read(const std::string& name) const {
  const auto m = std::find_if(members_.begin(), members_.end(), [&](const Member& x) { return x.name == name; });
  if (m == members_.end()) throw Error(Code::input, source_ + ": there is no array \"" + name + "\"");
  const std::string where = source_ + ": " + name;
  const Bytes bytes(file_.bytes(), source_);
  (void)bytes.range(m->offset, local_size);
  if (bytes.u32(m->offset) != local_signature) throw Error(Code::input, where + ": its zip header is broken");
  const std::uint64_t begin = m->offset + local_size + bytes.u16(m->offset + 26) + bytes.u16(m->offset + 28);
  const auto packed = bytes.range(begin, m->packed);
  if (!m->deflated) {
    if (crc_of(packed) != m->crc) throw Error(Code::input, where + ": the checksum is wrong");
    return read_npy(packed, where, file_.owner());
  }
  const auto inflated = std::make_shared<Tensor>(DType::u8, Shape{static_cast<std::int64_t>(m->size)});
  const auto to = inflated->write_bytes();
  if (!inflate_all(packed, to) || crc_of(to) != m->crc) {
    throw Error(Code::input, where + ": the compressed data are broken");
  }
  return read_npy(to, where, inflated);
}

void write_npz(const std::filesystem::path& path, const std::vector<std::pair<std::string, Tensor>>& arrays) {
  const auto put = [](std::string& s, std::uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) s += static_cast<char>(v >> (8 * i) & 0xff);
  };
  constexpr std::uint64_t january_1980 = 33;  // MS-DOS date, the first there is
  OutputFile out(path);
  std::string directory;
  for (const auto& [name, tensor] : arrays) {
    const std::string data = npy_bytes(tensor), member = name + ".npy";
    const std::uint64_t offset = out.size();
    if (offset + data.size() + directory.size() > std::numeric_limits<std::uint32_t>::max() - (1u << 20)) {
      throw Error(Code::input, path.string() + ": the arrays do not fit into an .npz file of 4 GiB",
                  "write fewer outputs or fewer samples");
    }
    std::string common;  // what the local and the central header share
    put(common, 20, 2);  // version needed to extract: 2.0
    put(common, 0, 2);
    put(common, 0, 2);  // stored
    put(common, 0, 2);
    put(common, january_1980, 2);
    put(common, crc_of(std::as_bytes(std::span(data.data(), data.size()))), 4);
    put(common, data.size(), 4);
    put(common, data.size(), 4);
    put(common, member.size(), 2);
    put(common, 0, 2);
    std::string local;
    put(local, local_signature, 4);
    out.write(local + common + member);
    out.write(data);
    put(directory, central_signature, 4);
    put(directory, 20, 2);
    directory += common;
    put(directory, 0, 2);
    put(directory, 0, 2);
    put(directory, 0, 2);
    put(directory, 0, 4);
    put(directory, offset, 4);
    directory += member;
  }
  const std::uint64_t at = out.size();
  out.write(directory);
  std::string end;
  put(end, end_signature, 4);
  put(end, 0, 4);
  put(end, arrays.size(), 2);
  put(end, arrays.size(), 2);
  put(end, directory.size(), 4);
  put(end, at, 4);
  put(end, 0, 2);
  out.write(end);
  out.publish();
}

}  // namespace qtool
