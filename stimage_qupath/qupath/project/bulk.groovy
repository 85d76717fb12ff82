import groovy.transform.CompileStatic
import org.locationtech.jts.geom.Coordinate
import org.locationtech.jts.geom.LinearRing
import qupath.lib.measurements.MeasurementList
import qupath.lib.measurements.MeasurementListFactory
import qupath.lib.objects.PathObject
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.objects.hierarchy.PathObjectHierarchy
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.GeometryTools
import qupath.lib.roi.ROIs
import qupath.lib.roi.interfaces.ROI

/**
 * Objects by the hundred thousand from primitive arrays, inside QuPath's own process; QuPath 0.4 to 0.7.
 * A call from outside for each object would take longer than the work itself.
 */
@CompileStatic
class StimageBulk {

    /**
     * @param ids          most and least significant half of each UUID
     * @param xy           x and y of every position; rings are open (the last position is not the first again)
     * @param ringStarts   first position of each ring, and the number of positions
     * @param partStarts   first ring of each polygon, and the number of rings; the first ring is the outline
     * @param nucleusXy    the same for the nucleus of each cell, or null for detections
     * @param names        of the measurements
     * @param values       one row an object; NaN is left out
     * @param classOf      class of each object, -1 for none
     * @param classes      what classOf counts
     */
    static PathObject[] create(long[] ids, double[] xy, int[] ringStarts, int[] partStarts,
                               double[] nucleusXy, int[] nucleusRingStarts, int[] nucleusPartStarts,
                               String[] names, float[] values, int[] classOf, PathClass[] classes, int z, int t) {
        ImagePlane plane = ImagePlane.getPlane(z, t)
        int n = partStarts.length - 1
        PathObject[] result = new PathObject[n]
        for (int i = 0; i < n; i++) {
            ROI roi = outline(xy, ringStarts, partStarts, i, plane)
            PathClass pathClass = classOf[i] < 0 ? null : classes[classOf[i]]
            MeasurementList list = measured(names, values, i)
            PathObject made
            if (nucleusXy == null)
                made = PathObjects.createDetectionObject(roi, pathClass, list)
            else
                made = PathObjects.createCellObject(roi, outline(nucleusXy, nucleusRingStarts, nucleusPartStarts, i, plane), pathClass, list)
            made.setID(new UUID(ids[2 * i], ids[2 * i + 1]))
            result[i] = made
        }
        return result
    }

    private static MeasurementList measured(String[] names, float[] values, int row) {
        int m = names.length
        MeasurementList list = MeasurementListFactory.createMeasurementList(m, MeasurementList.MeasurementListType.FLOAT)
        int offset = row * m
        for (int j = 0; j < m; j++) {
            float value = values[offset + j]
            if (!Float.isNaN(value))
                list.put(names[j], (double) value)
        }
        list.close()
        return list
    }

    private static ROI outline(double[] xy, int[] ringStarts, int[] partStarts, int i, ImagePlane plane) {
        int first = partStarts[i]
        int last = partStarts[i + 1]
        if (last - first == 1)
            return simple(xy, ringStarts[first], ringStarts[first + 1], plane)
        def factory = GeometryTools.getDefaultFactory()
        LinearRing[] holes = new LinearRing[last - first - 1]
        for (int r = first + 1; r < last; r++)
            holes[r - first - 1] = factory.createLinearRing(closed(xy, ringStarts[r], ringStarts[r + 1]))
        LinearRing shell = factory.createLinearRing(closed(xy, ringStarts[first], ringStarts[first + 1]))
        return GeometryTools.geometryToROI(factory.createPolygon(shell, holes), plane)
    }

    private static ROI simple(double[] xy, int from, int to, ImagePlane plane) {
        double[] x = new double[to - from]
        double[] y = new double[to - from]
        for (int k = from; k < to; k++) {
            x[k - from] = xy[2 * k]
            y[k - from] = xy[2 * k + 1]
        }
        return ROIs.createPolygonROI(x, y, plane)
    }

    private static Coordinate[] closed(double[] xy, int from, int to) {
        Coordinate[] ring = new Coordinate[to - from + 1]
        for (int k = from; k < to; k++)
            ring[k - from] = new Coordinate(xy[2 * k], xy[2 * k + 1])
        ring[to - from] = ring[0].copy()
        return ring
    }

    /** Attach the objects to the parent that each counts; no event is fired. */
    static void attach(PathObject[] objects, int[] parentOf, PathObject[] parents) {
        List<List<PathObject>> groups = new ArrayList<>()
        for (int p = 0; p < parents.length; p++)
            groups.add(new ArrayList<PathObject>())
        for (int i = 0; i < objects.length; i++)
            groups.get(parentOf[i]).add(objects[i])
        for (int p = 0; p < parents.length; p++) {
            if (!groups.get(p).isEmpty())
                parents[p].addChildObjects(groups.get(p))
        }
    }

    /** Remove the children of these parents whose measurements hold the key; what lies in them moves up. */
    static int removeOwn(PathObject[] parents, String key) {
        int count = 0
        for (PathObject parent : parents) {
            List<PathObject> own = new ArrayList<>()
            List<PathObject> orphans = new ArrayList<>()
            for (PathObject child : parent.getChildObjectsAsArray()) {
                if (child.isDetection() && child.getMeasurementList().containsKey(key)) {
                    own.add(child)
                    orphans.addAll(child.getChildObjects())
                }
            }
            parent.removeChildObjects(own)
            if (!orphans.isEmpty())
                parent.addChildObjects(orphans)
            count += own.size()
        }
        return count
    }

    /** Replace those measurements of existing objects that begin with the prefix; returns how many objects were found. */
    static int updateMeasurements(PathObjectHierarchy hierarchy, long[] ids, String[] names, float[] values, String prefix) {
        Map<UUID, PathObject> found = new HashMap<>()
        for (PathObject known : hierarchy.getDetectionObjects())
            found.put(known.getID(), known)
        int m = names.length
        int count = 0
        for (int i = 0; i < ids.length.intdiv(2); i++) {
            PathObject known = found.get(new UUID(ids[2 * i], ids[2 * i + 1]))
            if (known == null)
                continue
            MeasurementList list = known.getMeasurementList()
            List<String> stale = list.getMeasurementNames().findAll { String old -> old.startsWith(prefix) }
            list.removeMeasurements(stale.toArray(new String[0]))
            for (int j = 0; j < m; j++) {
                if (names[j].startsWith(prefix) && !Float.isNaN(values[i * m + j]))
                    list.put(names[j], (double) values[i * m + j])
            }
            list.close()
            count++
        }
        return count
    }

    /** UUIDs of all objects but the root, as two numbers each: those with the key, or those without. */
    static long[] ids(PathObjectHierarchy hierarchy, String key, boolean withKey) {
        List<PathObject> all = new ArrayList<>()
        hierarchy.getFlattenedObjectList(all)
        long[] result = new long[2 * all.size()]
        int n = 0
        for (PathObject item : all) {
            if (item.isRootObject() || (item.isDetection() && item.getMeasurementList().containsKey(key)) != withKey)
                continue
            result[n++] = item.getID().getMostSignificantBits()
            result[n++] = item.getID().getLeastSignificantBits()
        }
        return Arrays.copyOf(result, n)
    }
}
